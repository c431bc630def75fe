// From sequence shards to head shards: after prefill the kept rows of a layer move to the ranks that will attend
// their heads during decoding.
#pragma once

#include <vector>

#include "dist/comm/communicator.h"
#include "dist/comm/partition.h"
#include "kvcache/kv_cache.h"

namespace restkv {

/// The rows that one rank kept of one layer, where they lie in its local K/V (CPU ranks).
struct KeptLayer {
  const float* k = nullptr;  ///< [L_lc, kv_heads, d]
  const float* v = nullptr;  ///< [L_lc, kv_heads, d]
  int64_t kv_heads = 0;
  int64_t d = 0;
  std::vector<int64_t> source_head;        ///< [cache heads] column of k and v that each cache head copies
  std::vector<int64_t> positions;          ///< [L_lc] global positions
  std::vector<std::vector<int32_t>> rows;  ///< [cache heads][kept here] local row indices
};

/// Collective over `sequence`. share[r]: the run of cache heads (local indices) that rank r of the group gets; runs
/// may overlap. On return layer `layer` of `cache` (whose heads are those of this rank's run) holds all kept rows of
/// these heads in the order of their positions, with room for `reserve` more. One pairwise exchange per other rank.
void reshard_by_head(Context& ctx, Communicator& sequence, const KeptLayer& kept, const std::vector<Range>& share,
                     KvCache& cache, int64_t layer, int64_t reserve);

}  // namespace restkv
