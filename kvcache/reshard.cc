#include "kvcache/reshard.h"

#include <algorithm>
#include <numeric>

#include "kvcache/device_dispatch.h"

namespace restkv {
namespace {

// Rows of a run of heads, packed head after head: k and v [n, 2, d], positions [n].
struct Packed {
  Tensor kv;
  std::vector<int64_t> positions;
};

int64_t count_rows(const std::vector<int64_t>& counts, Range heads) {
  return std::accumulate(counts.begin() + heads.begin, counts.begin() + heads.end, int64_t{0});
}

Packed pack(Context& ctx, const KeptLayer& kept, Range heads) {
  int64_t n = 0;
  for (int64_t h = heads.begin; h < heads.end; ++h) n += static_cast<int64_t>(kept.rows[h].size());
  Packed packed{ctx.empty(DType::f32, {n, 2, kept.d}), {}};
  packed.positions.reserve(static_cast<size_t>(n));
  float* to = packed.kv.data<float>();
  for (int64_t h = heads.begin; h < heads.end; ++h)
    for (int32_t row : kept.rows[h]) {
      int64_t at = (row * kept.kv_heads + kept.source_head[h]) * kept.d;
      to = std::copy_n(kept.k + at, kept.d, to);
      to = std::copy_n(kept.v + at, kept.d, to);
      packed.positions.push_back(kept.positions[row]);
    }
  return packed;
}

// counts[r][h]: rows of cache head h that rank r kept.
std::vector<std::vector<int64_t>> gather_counts(Communicator& sequence, const KeptLayer& kept) {
  size_t heads = kept.rows.size(), ranks = static_cast<size_t>(sequence.size());
  std::vector<int64_t> mine(heads), all(heads * ranks);
  for (size_t h = 0; h < heads; ++h) mine[h] = static_cast<int64_t>(kept.rows[h].size());
  sequence.all_gather(mine.data(), all.data(), static_cast<int64_t>(heads), DType::i64);
  std::vector<std::vector<int64_t>> counts(ranks);
  for (size_t r = 0; r < ranks; ++r) counts[r].assign(all.begin() + r * heads, all.begin() + (r + 1) * heads);
  return counts;
}

// What every rank kept of this rank's heads, by rank.
std::vector<Packed> exchange(Context& ctx, Communicator& sequence, const KeptLayer& kept,
                             const std::vector<std::vector<int64_t>>& counts, const std::vector<Range>& share) {
  int ranks = sequence.size(), me = sequence.rank();
  std::vector<Packed> received(static_cast<size_t>(ranks));
  received[me] = pack(ctx, kept, share[me]);
  for (int step = 1; step < ranks; ++step) {
    int to = (me + step) % ranks, from = (me - step + ranks) % ranks;
    Packed outgoing = pack(ctx, kept, share[to]);
    int64_t n = count_rows(counts[from], share[me]);
    Packed& incoming = received[from];
    incoming.kv = ctx.empty(DType::f32, {n, 2, kept.d});
    incoming.positions.resize(static_cast<size_t>(n));
    sequence.send_recv(outgoing.kv.raw(), outgoing.kv.numel(), to, incoming.kv.raw(), incoming.kv.numel(), from,
                       DType::f32);
    sequence.send_recv(outgoing.positions.data(), static_cast<int64_t>(outgoing.positions.size()), to,
                       incoming.positions.data(), n, from, DType::i64);
  }
  return received;
}

}  // namespace

void reshard_by_head(Context& ctx, Communicator& sequence, const KeptLayer& kept, const std::vector<Range>& share,
                     KvCache& cache, int64_t layer, int64_t reserve) {
  need_cpu(ctx, "reshard_by_head");
  RESTKV_CHECK(static_cast<int>(share.size()) == sequence.size(), "{} shares for {} ranks", share.size(),
               sequence.size());
  auto counts = gather_counts(sequence, kept);
  std::vector<Packed> received = exchange(ctx, sequence, kept, counts, share);

  // One array of all rows; per head their indices in the order of positions.
  Range mine = share[sequence.rank()];
  int64_t total = 0;
  for (const Packed& packed : received) total += packed.kv.size(0);
  Tensor k = ctx.empty(DType::f32, {total, kept.d}), v = ctx.empty(DType::f32, {total, kept.d});
  std::vector<int64_t> positions;
  std::vector<std::vector<int32_t>> rows(static_cast<size_t>(mine.size()));
  for (size_t r = 0; r < received.size(); ++r) {
    int64_t at = 0;
    for (int64_t h = mine.begin; h < mine.end; ++h)
      for (int64_t i = 0; i < counts[r][h]; ++i, ++at) {
        int64_t row = static_cast<int64_t>(positions.size());
        const float* from = received[r].kv.data<float>() + at * 2 * kept.d;
        std::copy_n(from, kept.d, k.data<float>() + row * kept.d);
        std::copy_n(from + kept.d, kept.d, v.data<float>() + row * kept.d);
        rows[h - mine.begin].push_back(static_cast<int32_t>(row));
        positions.push_back(received[r].positions[at]);
      }
  }
  for (auto& head : rows)
    std::sort(head.begin(), head.end(), [&](int32_t a, int32_t b) { return positions[a] < positions[b]; });
  std::vector<int64_t> source(static_cast<size_t>(mine.size()), 0);
  cache.store(layer, MatrixView(k), MatrixView(v), 1, source,
              Tensor::view(positions.data(), DType::i64, {static_cast<int64_t>(positions.size())}),
              KeptRows::from_host(ctx, rows), reserve);
}

}  // namespace restkv
