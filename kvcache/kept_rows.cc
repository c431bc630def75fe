#include "kvcache/kept_rows.h"

#include <algorithm>
#include <numeric>

#include "dist/base/error.h"

namespace restkv {

std::vector<std::vector<int32_t>> KeptRows::rows_to_host(const Context& ctx) const {
  std::vector<std::vector<int32_t>> result(head.size());
  if (all) {
    for (auto& mine : result) {
      mine.resize(static_cast<size_t>(known));
      std::iota(mine.begin(), mine.end(), 0);
    }
    return result;
  }
  if (head.empty()) return result;
  const std::vector<int32_t> count = ctx.to_host<int32_t>(counts), index = ctx.to_host<int32_t>(rows);
  for (size_t h = 0; h < result.size(); ++h) {
    const auto first = index.begin() + static_cast<int64_t>(h) * capacity();
    result[h].assign(first, first + count[h]);
  }
  return result;
}

KeptRows KeptRows::everything(int64_t L_lc, std::vector<int64_t> head) {
  KeptRows kept;
  kept.head = std::move(head);
  kept.known = L_lc;
  kept.all = true;
  return kept;
}

KeptRows KeptRows::from_host(Context& ctx, const std::vector<std::vector<int32_t>>& rows, std::vector<int64_t> head) {
  KeptRows kept;
  kept.head = std::move(head);
  if (kept.head.empty()) {
    kept.head.resize(rows.size());
    std::iota(kept.head.begin(), kept.head.end(), 0);
  }
  RESTKV_CHECK(kept.head.size() == rows.size(), "rows of {} heads for {} heads", rows.size(), kept.head.size());
  size_t capacity = 0;
  for (const auto& mine : rows) capacity = std::max(capacity, mine.size());
  std::vector<int32_t> index(rows.size() * capacity, 0), count;
  for (size_t h = 0; h < rows.size(); ++h) {
    std::copy(rows[h].begin(), rows[h].end(), index.begin() + static_cast<int64_t>(h * capacity));
    count.push_back(static_cast<int32_t>(rows[h].size()));
  }
  const int64_t heads = kept.heads();
  kept.rows = ctx.to_device(index.data(), DType::i32, {heads, static_cast<int64_t>(capacity)});
  kept.counts = ctx.to_device(count.data(), DType::i32, {heads});
  // One number stands for all heads.
  if (!count.empty() && std::all_of(count.begin(), count.end(), [&](int32_t n) { return n == count[0]; }))
    kept.known = count[0];
  return kept;
}

void tally_kept(Context& ctx, int64_t layer, const KeptRows& kept, const std::vector<bool>& counted,
                const Tensor& positions, const Tensor& hash, const Tensor& counts) {
  RESTKV_CHECK(static_cast<int64_t>(counted.size()) == kept.heads(), "{} flags for {} heads", counted.size(),
               kept.heads());
  if (ctx.device() == Device::gpu) return gpu::tally_kept(ctx, layer, kept, counted, positions, hash, counts);
  const bool wide = positions.dtype() == DType::i64;
  for (int64_t h = 0; h < kept.heads(); ++h) {
    if (!counted[h]) continue;
    const int64_t count = kept.all ? kept.known : kept.counts.data<int32_t>()[h];
    const int32_t* row = kept.all ? nullptr : kept.rows.data<int32_t>() + h * kept.capacity();
    counts.data<int64_t>()[kept.head[h]] += count;
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = row != nullptr ? row[i] : i;
      const int64_t position = wide ? positions.data<int64_t>()[at] : positions.data<int32_t>()[at];
      sum += kept_hash_term(layer, kept.head[h], position);
    }
    hash.data<uint64_t>()[0] += sum;
  }
}

}  // namespace restkv
