// Which attention a rank computes while keys and values go round the ring of its sequence group. Pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/comm/partition.h"

namespace restkv {

/// The rank whose chunks lie on `rank` after `step` rounds: everybody passes them on to the next rank.
inline int ring_source(int rank, int ranks, int step) { return (rank - step + ranks) % ranks; }

/// Queries of one of this rank's chunks over the first keys of the chunks that lie here (a lower and an upper one,
/// dense, in their owner's local order).
struct RingBlock {
  int half = 0;                ///< of the queries: the lower (0) or the upper chunk
  int64_t keys = 0;            ///< keys of the block
  int64_t first_position = 0;  ///< as PrefillAttention::first_position: causal for own keys, beyond `keys` for others
  bool first = false;          ///< of this half's blocks
  bool last = false;
};

/// [steps] blocks of each step, without those that a causal mask hides wholly. Every step but the first has one whole
/// chunk pair on every rank: both query chunks over a lower key chunk of an earlier rank, or the upper query chunk over
/// both key chunks of a later one.
std::vector<std::vector<RingBlock>> ring_schedule(const SequencePartition& partition, int rank);

}  // namespace restkv
