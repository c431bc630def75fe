// What one rank owns of a layer's L positions during eviction: its blocks of the grid and its runs of consecutive
// positions, in the partition's local order. Index arithmetic only, the same formulas on every rank.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/comm/partition.h"

namespace restkv {

/// `count` consecutive positions: local indices [local, local + count), global positions [global, global + count).
struct Segment {
  int64_t local = 0;
  int64_t global = 0;
  int64_t count = 0;
};

struct LocalShard {
  int64_t L = 0;     ///< prompt tokens
  int64_t W = 0;     ///< window rows
  int64_t P = 0;     ///< past positions, L - W
  int64_t L_lc = 0;  ///< positions of this rank
  /// Elements from one row of a [rows, L_lc] array to the next: L_lc rounded up to whole panels (cpu/lane_tile.h).
  int64_t stride = 0;
  /// The owned blocks, ascending; Segment::local is a multiple of the panel width.
  std::vector<Segment> blocks;
  /// Index in the grid of each owned block.
  std::vector<int64_t> block_index;
  /// The owned runs over all positions, and over the past positions alone: at most two each, ascending.
  std::vector<Segment> all, past;

  int64_t past_count() const;
};

/// The shard of `rank`. Preconditions: 0 <= W < L (W = 0: all positions are past); the block size is a multiple of the
/// panel width.
LocalShard make_local_shard(const SequencePartition& partition, int rank, int64_t W);

/// Past positions of any rank.
int64_t past_count_of(const SequencePartition& partition, int rank, int64_t P);

}  // namespace restkv
