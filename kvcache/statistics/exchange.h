// The exchanges of one layer's eviction inside the sequence group that are not histograms: partials per block of the
// grid, and local scores.
#pragma once

#include <memory>
#include <vector>

#include "dist/base/context.h"
#include "dist/comm/communicator.h"
#include "dist/comm/partition.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// slot[b]: where block b lies when the owned blocks of all ranks stand one after another in rank order. Folding over
/// slot[0], slot[1], ... is folding in block order.
std::vector<int64_t> block_slots(const SequencePartition& partition);

/// All blocks' partials [blocks, elements] in slot order, from local [owned blocks, elements]. With one rank this is
/// the input itself. One all_gather_v (f32).
Tensor gather_blocks(Context& ctx, Communicator& sequence, const SequencePartition& partition, const Tensor& local,
                     int64_t elements);

/// An exchange of scores that was begun. Keeps what it reads and writes.
struct PastGather {
  int64_t rows = 0;
  Tensor packed;    ///< this rank's scores
  Tensor received;  ///< of all ranks, one after the other
  std::shared_ptr<void> ticket;
};

/// Begins to gather the scores of all past positions from local [rows, stride]: one collective, which runs beside what
/// is enqueued next. CPU ranks: all_gather_v (f32) of the past positions. GPU ranks: all_gather of past_capacity()
/// elements a row, the same for all ranks.
PastGather begin_gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                             const LocalShard& shard, const float* local, int64_t rows);

/// The scores [rows, P], by global position.
Tensor finish_gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                          const LocalShard& shard, const PastGather& begun);

/// Elements of a row that a GPU rank sends: the most past positions of any rank, in whole vectors.
int64_t past_capacity(const SequencePartition& partition, int64_t P);

/// Both, one after the other.
Tensor gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition, const LocalShard& shard,
                   const float* local, int64_t rows);

/// to[r * to_stride + i] = from[r * from_stride + i] for r < rows and i < count: what packing and unpacking consist of.
void copy_rows(Context& ctx, const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
               int64_t count);

namespace gpu {  // exchange_gpu.cu
void copy_rows(Context& ctx, const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
               int64_t count);
}

}  // namespace restkv
