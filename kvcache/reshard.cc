#include "kvcache/reshard.h"

#include <algorithm>
#include <numeric>

#include "kvcache/device_dispatch.h"

namespace restkv {
namespace {

// What a CPU rank works with.
struct HostRows {
  const float* k;  // [L_lc, kv_heads, d]
  const float* v;
  int64_t kv_heads, d;
  const std::vector<int64_t>& source_head;
  std::vector<int64_t> positions;          // [L_lc]
  std::vector<std::vector<int32_t>> rows;  // [cache heads][kept here]
};

HostRows host_rows(Context& ctx, const KeptLayer& kept) {
  HostRows host{dense_f32("reshard_by_head", kept.k),
                dense_f32("reshard_by_head", kept.v),
                kept.kv_heads,
                kept.d,
                kept.source_head,
                {},
                kept.rows->rows_to_host(ctx)};
  for (int64_t i = 0; i < kept.positions.numel(); ++i)
    host.positions.push_back(kept.positions.dtype() == DType::i64 ? kept.positions.data<int64_t>()[i]
                                                                  : kept.positions.data<int32_t>()[i]);
  return host;
}

// Rows of a run of heads, packed head after head: k and v [n, 2, d], positions [n].
struct Packed {
  Tensor kv;
  std::vector<int64_t> positions;
};

int64_t count_rows(const std::vector<int64_t>& counts, Range heads) {
  return std::accumulate(counts.begin() + heads.begin, counts.begin() + heads.end, int64_t{0});
}

Packed pack(Context& ctx, const HostRows& kept, Range heads) {
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
std::vector<std::vector<int64_t>> gather_counts(Communicator& sequence, const HostRows& kept) {
  size_t heads = kept.rows.size(), ranks = static_cast<size_t>(sequence.size());
  std::vector<int64_t> mine(heads), all(heads * ranks);
  for (size_t h = 0; h < heads; ++h) mine[h] = static_cast<int64_t>(kept.rows[h].size());
  sequence.all_gather(mine.data(), all.data(), static_cast<int64_t>(heads), DType::i64);
  std::vector<std::vector<int64_t>> counts(ranks);
  for (size_t r = 0; r < ranks; ++r) counts[r].assign(all.begin() + r * heads, all.begin() + (r + 1) * heads);
  return counts;
}

// What every rank kept of this rank's heads, by rank.
std::vector<Packed> exchange(Context& ctx, Communicator& sequence, const HostRows& kept,
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

void reshard_on_cpu(Context& ctx, Communicator& sequence, const HostRows& kept, const std::vector<Range>& share,
                    KvCache& cache, int64_t layer, int64_t reserve) {
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

// GPU ranks. Bytes of one message up to which all heads of a share go at once.
constexpr int64_t kMessageBytes = int64_t{256} << 20;

constexpr int64_t whole_vectors(int64_t bytes) { return (bytes + 15) / 16 * 16; }

struct Message {
  Tensor bytes;
  gpu::PackedRows rows;
};

Message make_message(Context& ctx, int64_t heads, int64_t capacity, int64_t row_bytes) {
  Message message{ctx.empty(DType::u8, {reshard_message_bytes(heads, capacity, row_bytes)}), {}};
  char* at = static_cast<char*>(message.bytes.raw());
  const int64_t rows = heads * capacity;
  message.rows.k = at;
  message.rows.v = at + rows * row_bytes;
  message.rows.position = reinterpret_cast<int32_t*>(at += whole_vectors(2 * rows * row_bytes));
  message.rows.length = reinterpret_cast<int32_t*>(at + rows * static_cast<int64_t>(sizeof(int32_t)));
  message.rows.capacity = capacity;
  return message;
}

// The kept rows of these cache heads.
Message pack_on_gpu(Context& ctx, const KeptLayer& kept, Range heads, int64_t capacity, int64_t row_bytes) {
  Message message = make_message(ctx, heads.size(), capacity, row_bytes);
  if (heads.empty()) return message;
  KeptRows some;
  some.all = kept.rows->all;
  some.known = kept.rows->known;
  if (!some.all) {
    some.rows = kept.rows->rows.rows(heads.begin, heads.size());
    some.counts = kept.rows->counts.rows(heads.begin, heads.size());
  }
  const auto source = kept.source_head.begin();
  const std::vector<int64_t> capacities(static_cast<size_t>(heads.size()), capacity);
  const CacheRows to{message.rows.k, message.rows.v, message.rows.position, &capacities, &capacities, row_bytes};
  Tensor first_rows = ctx.empty(DType::i64, {heads.size()});
  gpu::store_rows(ctx, {kept.k, kept.v, {source + heads.begin, source + heads.end}, kept.positions}, some, to,
                  first_rows.data<int64_t>(), message.rows.length);
  return message;
}

void reshard_on_gpu(Context& ctx, Communicator& sequence, const KeptLayer& kept, const std::vector<Range>& share,
                    KvCache& cache, int64_t layer, int64_t reserve) {
  const int ranks = sequence.size(), me = sequence.rank();
  const bool ragged = !kept.rows->all && kept.rows->in_group < 0;
  // Of a head; where heads differ, its most.
  const int64_t total = kept.rows->all ? kept.partition->length()
                        : ragged       ? kept.rows->most_in_group
                                       : kept.rows->in_group;
  const int64_t row_bytes = kept.d * size_of(kept.k.dtype);
  RESTKV_CHECK(total >= 0, "reshard_by_head: the rows that the group keeps are not known");
  RESTKV_CHECK(kept.k.dtype == cache.dtype() && kept.v.dtype == cache.dtype(), "rows of {} for a cache of {}",
               name_of(kept.k.dtype), name_of(cache.dtype()));
  RESTKV_CHECK(cache.heads() == share[me].size(), "{} heads for a cache of {}", share[me].size(), cache.heads());
  const auto capacity = [&](int rank) { return std::min(total, kept.partition->local_size(rank)); };
  int64_t widest = 0, most = 1;
  for (int r = 0; r < ranks; ++r) {
    widest = std::max(widest, share[r].size());
    most = std::max(most, capacity(r));
  }
  DeviceKvLayer to;
  if (ragged) {
    const int64_t heads = kept.rows->heads();
    Tensor counts = ctx.empty(DType::i32, {ranks, heads});
    sequence.all_gather(kept.rows->counts.raw(), counts.raw(), heads, DType::i32);
    to = cache.make_ragged_rows(layer, counts, share[me].begin, total, kept.rows->together, reserve);
  } else {
    to = cache.make_rows(layer, total, reserve);
  }
  const int64_t at_once = std::max<int64_t>(1, kMessageBytes / (2 * most * row_bytes));
  for (int64_t first = 0; first < widest; first += at_once) {
    const auto part = [&](int rank) {
      return intersect(share[rank], {share[rank].begin + first, share[rank].begin + first + at_once});
    };
    std::vector<Message> messages(static_cast<size_t>(ranks));
    messages[me] = pack_on_gpu(ctx, kept, part(me), capacity(me), row_bytes);
    for (int step = 1; step < ranks; ++step) {
      const int destination = (me + step) % ranks, source = (me - step + ranks) % ranks;
      const Message outgoing = pack_on_gpu(ctx, kept, part(destination), capacity(me), row_bytes);
      Message& incoming = messages[source] = make_message(ctx, part(me).size(), capacity(source), row_bytes);
      sequence.send_recv(outgoing.bytes.raw(), outgoing.bytes.numel(), destination, incoming.bytes.raw(),
                         incoming.bytes.numel(), source, DType::u8);
    }
    std::vector<gpu::PackedRows> parts;
    parts.reserve(messages.size());
    for (const Message& message : messages) parts.push_back(message.rows);
    DeviceKvLayer these = to;
    these.first_row += first;
    gpu::merge_rows(ctx, parts, part(me).size(), total, row_bytes, these);
  }
}

}  // namespace

int64_t reshard_message_bytes(int64_t heads, int64_t capacity, int64_t row_bytes) {
  const int64_t rows = heads * capacity;
  return whole_vectors(2 * rows * row_bytes) + (rows + heads) * static_cast<int64_t>(sizeof(int32_t));
}

void reshard_by_head(Context& ctx, Communicator& sequence, const KeptLayer& kept, const std::vector<Range>& share,
                     KvCache& cache, int64_t layer, int64_t reserve) {
  RESTKV_CHECK(static_cast<int>(share.size()) == sequence.size(), "{} shares for {} ranks", share.size(),
               sequence.size());
  RESTKV_CHECK(kept.rows != nullptr && kept.partition != nullptr && kept.partition->ranks() == sequence.size(),
               "rows kept by a sequence group of {} ranks", sequence.size());
  for (Range heads : share)
    RESTKV_CHECK(heads.empty() || (heads.begin >= 0 && heads.end <= kept.rows->heads()), "heads [{}, {}) of {}",
                 heads.begin, heads.end, kept.rows->heads());
  if (ctx.device() == Device::gpu) return reshard_on_gpu(ctx, sequence, kept, share, cache, layer, reserve);
  reshard_on_cpu(ctx, sequence, host_rows(ctx, kept), share, cache, layer, reserve);
}

}  // namespace restkv
