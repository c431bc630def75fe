// The scores next to a rank's runs of past positions. Pooling reads a score at most `reach` positions away from the one
// that it is for, so that of the other ranks' scores only strips at the edges of their runs are needed.
//
// A rank sends four strips per row: the first and the last `reach` positions of its first run, then of its second.
// Entry i of a first strip is the i-th position of the run, entry i of a last strip is that `reach` - i before its end;
// entries of positions that the run does not have are zero.
#pragma once

#include <array>
#include <cstdint>

#include "dist/base/context.h"
#include "dist/comm/partition.h"
#include "kvcache/local_shard.h"

namespace restkv {

inline constexpr int64_t kEdgeStrips = 4;

/// Whether strips of `reach` positions hold all that any rank needs, and are shorter than all scores: no run between
/// two others is shorter than its neighbours reach. The same on every rank.
bool edges_suffice(const SequencePartition& partition, int64_t P, int64_t reach);

/// A strip of another run (which may be this rank's too).
struct EdgeStrip {
  int rank = -1;  ///< -1: none, the prompt ends there
  int strip = 0;  ///< in [0, kEdgeStrips)
};

/// Which strips lie before and behind each run of a rank.
struct EdgeNeighbours {
  std::array<EdgeStrip, 2> before, behind;
};
EdgeNeighbours edge_neighbours(const SequencePartition& partition, const LocalShard& shard);

/// edges [rows, kEdgeStrips, reach] (f32) of scores [rows, shard.stride].
void pack_edges(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, int64_t reach, float* edges);

namespace gpu {  // exchange_gpu.cu
void pack_edges(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, int64_t reach, float* edges);
}

}  // namespace restkv
