#include "kvcache/statistics/exchange.h"

#include <algorithm>

namespace restkv {

std::vector<int64_t> block_slots(const SequencePartition& partition) {
  std::vector<int64_t> slot(static_cast<size_t>(partition.blocks()));
  int64_t next = 0;
  for (int rank = 0; rank < partition.ranks(); ++rank)
    for (int64_t b : partition.blocks_of(rank)) slot[b] = next++;
  return slot;
}

Tensor gather_blocks(Context& ctx, Communicator& sequence, const SequencePartition& partition, const Tensor& local,
                     int64_t elements) {
  if (sequence.size() == 1) return local;
  std::vector<int64_t> counts, displacements;
  int64_t next = 0;
  for (int rank = 0; rank < partition.ranks(); ++rank) {
    counts.push_back(static_cast<int64_t>(partition.blocks_of(rank).size()) * elements);
    displacements.push_back(next);
    next += counts.back();
  }
  Tensor all = ctx.empty(DType::f32, {partition.blocks(), elements});
  sequence.all_gather_v(local.raw(), all.raw(), counts, displacements, DType::f32);
  return all;
}

void copy_rows(Context& ctx, const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
               int64_t count) {
  if (ctx.device() == Device::gpu) return gpu::copy_rows(ctx, from, from_stride, to, to_stride, rows, count);
  ctx.parallel_for(rows, [&](int64_t row) { std::copy_n(from + row * from_stride, count, to + row * to_stride); });
}

int64_t past_capacity(const SequencePartition& partition, int64_t P) {
  int64_t most = 0;
  for (int rank = 0; rank < partition.ranks(); ++rank) most = std::max(most, past_count_of(partition, rank, P));
  return (most + 3) / 4 * 4;
}

PastGather begin_gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                             const LocalShard& shard, const float* local, int64_t rows) {
  PastGather begun;
  begun.rows = rows;
  const int ranks = sequence.size();
  const bool equal = ctx.device() == Device::gpu && ranks > 1;
  const int64_t row = equal ? past_capacity(partition, shard.P) : shard.past_count();
  begun.packed = ctx.empty(DType::f32, {rows, row});
  if (ranks == 1) {  // all past positions are here, in order
    copy_rows(ctx, local, shard.stride, begun.packed.data<float>(), row, rows, row);
    return begun;
  }
  int64_t at = 0;
  for (const Segment& s : shard.past) {
    copy_rows(ctx, local + s.local, shard.stride, begun.packed.data<float>() + at, row, rows, s.count);
    at += s.count;
  }
  const auto gather = [&] {
    if (equal) {
      sequence.all_gather(begun.packed.raw(), begun.received.raw(), rows * row, DType::f32);
      return;
    }
    std::vector<int64_t> counts, displacements;
    int64_t next = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      counts.push_back(rows * past_count_of(partition, rank, shard.P));
      displacements.push_back(next);
      next += counts.back();
    }
    sequence.all_gather_v(begun.packed.raw(), begun.received.raw(), counts, displacements, DType::f32);
  };
  begun.received = ctx.empty(DType::f32, {equal ? ranks * rows * row : rows * shard.P});
  begun.ticket = sequence.beside(gather);
  return begun;
}

Tensor finish_gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                          const LocalShard& shard, const PastGather& begun) {
  const int64_t P = shard.P, rows = begun.rows;
  if (sequence.size() == 1) return begun.packed;
  if (begun.ticket != nullptr) sequence.join(begun.ticket.get());
  const int64_t capacity = ctx.device() == Device::gpu ? past_capacity(partition, P) : 0;
  Tensor all = ctx.empty(DType::f32, {rows, P});
  const float* from = begun.received.data<float>();
  for (int rank = 0; rank < sequence.size(); ++rank) {
    const LocalShard other = make_local_shard(partition, rank, shard.W);
    const int64_t row = capacity > 0 ? capacity : other.past_count();
    int64_t at = 0;
    for (const Segment& s : other.past) {
      copy_rows(ctx, from + at, row, all.data<float>() + s.global, P, rows, s.count);
      at += s.count;
    }
    from += rows * row;
  }
  return all;
}

Tensor gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition, const LocalShard& shard,
                   const float* local, int64_t rows) {
  const PastGather begun = begin_gather_past(ctx, sequence, partition, shard, local, rows);
  return finish_gather_past(ctx, sequence, partition, shard, begun);
}

}  // namespace restkv
