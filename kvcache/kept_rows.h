// What one layer keeps on this rank, as the eviction decides it: on the rank's own device, so that a GPU needs no word
// from the host between the decision and the cache.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/mix.h"

namespace restkv {

/// Cache heads are the local KV heads, or the local query heads with Granularity::query_head.
struct KeptRows {
  /// i32 [cache heads, capacity] local row indices, ascending, the window's rows included; the first counts[h] of a
  /// head count. Empty when `all`.
  Tensor rows;
  /// i32 [cache heads] rows kept of each head. Empty when `all`.
  Tensor counts;
  /// [cache heads] the model's KV (or query) head index: what kept_hash and messages name.
  std::vector<int64_t> head;
  /// i64 [Hq_lc] of adaptive pooling: the width and shift in use; empty otherwise.
  Tensor kernel, shift;
  /// Every head's count where the host knows it without waiting for the device (one sequence rank: the budget), else
  /// -1.
  int64_t known = -1;
  /// Rows that all ranks of the sequence group keep of each head together, where the host knows it (an eviction: the
  /// layer's budget), else -1.
  int64_t in_group = -1;
  /// Where heads have budgets of their own (`ada`; in_group is -1 then), on GPU ranks: no head has more rows in the
  /// sequence group, and all heads of this rank together have at most so many there.
  int64_t most_in_group = -1, together = -1;
  /// Every head keeps the rows 0 .. known - 1: no index array.
  bool all = false;

  int64_t heads() const { return static_cast<int64_t>(head.size()); }
  /// No head keeps more.
  int64_t capacity() const { return all ? known : rows.size(1); }
  /// [cache heads][kept here], on the host; waits for the device.
  std::vector<std::vector<int32_t>> rows_to_host(const Context& ctx) const;

  /// All of L_lc rows, for every one of `head`.
  static KeptRows everything(int64_t L_lc, std::vector<int64_t> head);
  /// The other way round from rows_to_host(); `head` as above (by default 0, 1, ...).
  static KeptRows from_host(Context& ctx, const std::vector<std::vector<int32_t>>& rows,
                            std::vector<int64_t> head = {});
};

/// Order-free hash of kept positions: the sum over (layer, head, position) of a 64-bit mix, so ranks add theirs up.
RESTKV_HOST_DEVICE constexpr uint64_t kept_hash_term(int64_t layer, int64_t head, int64_t position) {
  uint64_t hash = mix64(static_cast<uint64_t>(layer));
  hash = mix64(hash ^ static_cast<uint64_t>(head));
  return mix64(hash ^ static_cast<uint64_t>(position));
}

/// The account of a layer's decision: adds kept_hash_term(layer, head, positions[row]) of all kept rows to hash
/// (u64 [1]), and each head's count to counts[head] (i64 [heads of the model], this layer's). counted [cache heads]:
/// heads that are false are left to another rank. positions: i32 or i64 [L_lc], global. In stream order.
void tally_kept(Context& ctx, int64_t layer, const KeptRows& kept, const std::vector<bool>& counted,
                const Tensor& positions, const Tensor& hash, const Tensor& counts);

namespace gpu {  // kept_rows_gpu.cu
void tally_kept(Context& ctx, int64_t layer, const KeptRows& kept, const std::vector<bool>& counted,
                const Tensor& positions, const Tensor& hash, const Tensor& counts);
}

}  // namespace restkv
