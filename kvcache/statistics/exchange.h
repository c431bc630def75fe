// The exchanges of one layer's eviction inside the sequence group that are not histograms: partials per block of the
// grid, and local scores.
#pragma once

#include <memory>
#include <vector>

#include "dist/base/context.h"
#include "dist/comm/communicator.h"
#include "dist/comm/partition.h"
#include "kvcache/local_shard.h"
#include "kvcache/statistics/past_edges.h"

namespace restkv {

/// slot[b]: where block b lies when the owned blocks of all ranks stand one after another in rank order. Folding over
/// slot[0], slot[1], ... is folding in block order.
std::vector<int64_t> block_slots(const SequencePartition& partition);

/// All blocks' partials [blocks, elements] in slot order, from local [owned blocks, elements]. With one rank this is
/// the input itself. One all_gather_v (f32).
Tensor gather_blocks(Context& ctx, Communicator& sequence, const SequencePartition& partition, const Tensor& local,
                     int64_t elements);

/// The same as an exchange that was begun: it runs beside what is enqueued next. Keeps what it reads and writes.
struct BlockGather {
  Tensor local;
  Tensor all;  ///< not to be read before finish_gather_blocks()
  std::shared_ptr<void> ticket;
};
BlockGather begin_gather_blocks(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                                const Tensor& local, int64_t elements);
Tensor finish_gather_blocks(Communicator& sequence, const BlockGather& begun);

/// An exchange of scores that was begun. Keeps what it reads and writes.
struct PastGather {
  int64_t rows = 0;
  int64_t reach = 0;  ///< of the strips that travel; 0: all scores do
  Tensor local;       ///< this rank's scores [rows, stride]
  Tensor packed;      ///< what it sends
  Tensor received;    ///< of all ranks, one after the other
  std::shared_ptr<void> ticket;
};

/// The scores that a rank pools.
struct PastScores {
  Tensor values;  ///< by_position: [rows, P]; else this rank's own, [rows, stride] in local order
  bool by_position = true;
  Tensor edges;  ///< [ranks, rows, kEdgeStrips, reach], beside scores in local order on several ranks
  int64_t reach = 0;
  EdgeNeighbours neighbours = {};
};

/// Begins to exchange the scores of the past positions in local [rows, stride]: one collective, which runs beside what
/// is enqueued next. `reach`: how far from its own positions a rank will read. all_gather of the strips of past_edges.h
/// where they suffice; else of all scores, CPU ranks: all_gather_v (f32) of the past positions, GPU ranks: all_gather
/// of past_capacity() elements a row, the same for all ranks.
PastGather begin_gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                             const LocalShard& shard, const Tensor& local, int64_t reach);

/// The scores within reach of this rank's positions. On CPU ranks always by position (those out of reach are
/// undefined); GPU ranks leave their own where they are.
PastScores finish_gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                              const LocalShard& shard, const PastGather& begun);

/// Elements of a row that a GPU rank sends: the most past positions of any rank, in whole vectors.
int64_t past_capacity(const SequencePartition& partition, int64_t P);

/// to[r * to_stride + i] = from[r * from_stride + i] for r < rows and i < count: what packing and unpacking consist of.
void copy_rows(Context& ctx, const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
               int64_t count);

namespace gpu {  // exchange_gpu.cu
void copy_rows(Context& ctx, const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
               int64_t count);
}

}  // namespace restkv
