// From sequence shards to head shards: after prefill the kept rows of a layer move to the ranks that will attend
// their heads during decoding.
#pragma once

#include <vector>

#include "dist/comm/communicator.h"
#include "dist/comm/partition.h"
#include "kvcache/kv_cache.h"

namespace restkv {

/// The rows that one rank kept of one layer, where they lie in its local K/V; all on the rank's device.
struct KeptLayer {
  MatrixView k;          ///< [L_lc, kv_heads * d], dense f32 on CPU ranks
  MatrixView v;          ///< [L_lc, kv_heads * d]
  int64_t kv_heads = 0;  ///< columns of heads in k and v
  int64_t d = 0;
  std::vector<int64_t> source_head;  ///< [cache heads] column of k and v that each cache head copies
  Tensor positions;                  ///< i32 or i64 [L_lc] global positions
  const KeptRows* rows = nullptr;
  const SequencePartition* partition = nullptr;
};

/// Collective over `sequence`. share[r]: the run of cache heads (local indices) that rank r of the group gets; runs
/// may overlap. On return layer `layer` of `cache` (whose heads are those of this rank's run) holds all kept rows of
/// these heads in the order of their positions, with room for `reserve` more.
/// CPU ranks: one all-gather of the counts, and one pairwise exchange per other rank.
/// GPU ranks: in stream order, without a wait. One pairwise exchange per other rank (and per run of heads, where rows
/// are many), of reshard_message_bytes(): as many rows as the sender may have kept. Where heads have counts of their
/// own (rows->most_in_group), one all-gather of the counts before. Precondition there: rows->all, rows->in_group is
/// known, or rows->most_in_group and rows->together.
void reshard_by_head(Context& ctx, Communicator& sequence, const KeptLayer& kept, const std::vector<Range>& share,
                     KvCache& cache, int64_t layer, int64_t reserve);

/// GPU ranks: bytes of a message with the rows of `heads` cache heads, at most `capacity` of each (the smaller of what
/// the group keeps of a head and of the sender's positions). row_bytes: of k or v.
int64_t reshard_message_bytes(int64_t heads, int64_t capacity, int64_t row_bytes);

namespace gpu {  // reshard_gpu.cu
inline constexpr int kMostMergedRanks = 96;

/// Rows of `heads` cache heads that one rank kept, as a message holds them.
struct PackedRows {
  void* k = nullptr;            ///< [heads, capacity, d]
  void* v = nullptr;            ///< [heads, capacity, d]
  int32_t* position = nullptr;  ///< [heads, capacity] ascending
  int32_t* length = nullptr;    ///< [heads] rows in use
  int64_t capacity = 0;
};

/// Rows [first_row[h], first_row[h] + total) of `to` become the rows of all parts, in the order of their positions, for
/// the `heads` heads from to.first_row on. Precondition: together the parts have at most `total` rows of every head.
void merge_rows(Context& ctx, const std::vector<PackedRows>& parts, int64_t heads, int64_t total, int64_t row_bytes,
                const DeviceKvLayer& to);
}  // namespace gpu

}  // namespace restkv
