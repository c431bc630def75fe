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

Tensor gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition, const LocalShard& shard,
                   const float* local, int64_t rows) {
  const int64_t P = shard.P;
  Tensor all = ctx.empty(DType::f32, {rows, P});
  float* out = all.data<float>();
  if (sequence.size() == 1) {
    copy_rows(ctx, local, shard.stride, out, P, rows, P);
    return all;
  }
  const int64_t mine = shard.past_count();
  Tensor packed = ctx.empty(DType::f32, {rows, mine});
  int64_t at = 0;
  for (const Segment& s : shard.past) {
    copy_rows(ctx, local + s.local, shard.stride, packed.data<float>() + at, mine, rows, s.count);
    at += s.count;
  }
  std::vector<int64_t> counts, displacements;
  int64_t next = 0;
  for (int rank = 0; rank < partition.ranks(); ++rank) {
    counts.push_back(rows * past_count_of(partition, rank, P));
    displacements.push_back(next);
    next += counts.back();
  }
  Tensor received = ctx.empty(DType::f32, {rows * P});
  sequence.all_gather_v(packed.raw(), received.raw(), counts, displacements, DType::f32);
  for (int rank = 0; rank < partition.ranks(); ++rank) {
    const LocalShard other = make_local_shard(partition, rank, shard.W);
    const float* from = received.data<float>() + displacements[rank];
    for (const Segment& s : other.past) {
      copy_rows(ctx, from, other.past_count(), out + s.global, P, rows, s.count);
      from += s.count;
    }
  }
  return all;
}

}  // namespace restkv
