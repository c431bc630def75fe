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

namespace {

void gather_into(Communicator& sequence, const SequencePartition& partition, const Tensor& local, int64_t elements,
                 const Tensor& all) {
  std::vector<int64_t> counts, displacements;
  int64_t next = 0;
  for (int rank = 0; rank < partition.ranks(); ++rank) {
    counts.push_back(static_cast<int64_t>(partition.blocks_of(rank).size()) * elements);
    displacements.push_back(next);
    next += counts.back();
  }
  sequence.all_gather_v(local.raw(), all.raw(), counts, displacements, DType::f32);
}

}  // namespace

BlockGather begin_gather_blocks(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                                const Tensor& local, int64_t elements) {
  if (sequence.size() == 1) return {local, local, nullptr};
  BlockGather begun{local, ctx.empty(DType::f32, {partition.blocks(), elements}), nullptr};
  begun.ticket = sequence.beside([&] { gather_into(sequence, partition, local, elements, begun.all); });
  return begun;
}

Tensor finish_gather_blocks(Communicator& sequence, const BlockGather& begun) {
  if (begun.ticket != nullptr) sequence.join(begun.ticket.get());
  return begun.all;
}

Tensor gather_blocks(Context& ctx, Communicator& sequence, const SequencePartition& partition, const Tensor& local,
                     int64_t elements) {
  if (sequence.size() == 1) return local;
  Tensor all = ctx.empty(DType::f32, {partition.blocks(), elements});
  gather_into(sequence, partition, local, elements, all);
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

namespace {

// This rank's scores [rows, capacity] as all of them travel.
Tensor pack_all(Context& ctx, const LocalShard& shard, const Tensor& local, int64_t capacity) {
  Tensor packed = ctx.empty(DType::f32, {local.size(0), capacity});
  int64_t at = 0;
  for (const Segment& s : shard.past) {
    copy_rows(ctx, local.data<float>() + s.local, shard.stride, packed.data<float>() + at, capacity, local.size(0),
              s.count);
    at += s.count;
  }
  return packed;
}

// All scores [rows, P] from those of the ranks.
Tensor unpack_all(Context& ctx, int ranks, const SequencePartition& partition, const LocalShard& shard,
                  const PastGather& begun) {
  const int64_t P = shard.P, rows = begun.rows;
  const int64_t capacity = ctx.device() == Device::gpu ? past_capacity(partition, P) : 0;
  Tensor all = ctx.empty(DType::f32, {rows, P});
  const float* from = begun.received.data<float>();
  for (int rank = 0; rank < ranks; ++rank) {
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

// The rank's own scores and those in its neighbours' strips, by position.
Tensor place_edges(Context& ctx, const LocalShard& shard, const PastGather& begun, const EdgeNeighbours& neighbours) {
  const int64_t P = shard.P, rows = begun.rows, reach = begun.reach;
  Tensor all = ctx.empty(DType::f32, {rows, P});
  const auto strip = [&](EdgeStrip s) {
    return begun.received.data<float>() + (s.rank * rows * kEdgeStrips + s.strip) * reach;
  };
  // What is copied twice is the same: a strip may lie in another run of this rank.
  for (size_t r = 0; r < shard.past.size(); ++r) {
    const Segment& run = shard.past[r];
    const int64_t end = run.global + run.count;
    copy_rows(ctx, begun.local.data<float>() + run.local, shard.stride, all.data<float>() + run.global, P, rows,
              run.count);
    const int64_t before = std::min(reach, run.global), behind = std::min(reach, P - end);
    if (neighbours.before[r].rank >= 0)
      copy_rows(ctx, strip(neighbours.before[r]) + reach - before, kEdgeStrips * reach,
                all.data<float>() + run.global - before, P, rows, before);
    if (neighbours.behind[r].rank >= 0)
      copy_rows(ctx, strip(neighbours.behind[r]), kEdgeStrips * reach, all.data<float>() + end, P, rows, behind);
  }
  return all;
}

}  // namespace

PastGather begin_gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                             const LocalShard& shard, const Tensor& local, int64_t reach) {
  PastGather begun;
  begun.rows = local.size(0);
  begun.local = local;
  const int ranks = sequence.size();
  if (ranks == 1) return begun;
  const int64_t rows = begun.rows;
  if (edges_suffice(partition, shard.P, reach)) {
    begun.reach = reach;
    const int64_t count = rows * kEdgeStrips * reach;
    begun.packed = ctx.empty(DType::f32, {rows, kEdgeStrips, reach});
    begun.received = ctx.empty(DType::f32, {ranks, rows, kEdgeStrips, reach});
    pack_edges(ctx, shard, local.data<float>(), rows, reach, begun.packed.data<float>());
    begun.ticket =
        sequence.beside([&] { sequence.all_gather(begun.packed.raw(), begun.received.raw(), count, DType::f32); });
    return begun;
  }
  const bool equal = ctx.device() == Device::gpu;
  const int64_t row = equal ? past_capacity(partition, shard.P) : shard.past_count();
  begun.packed = pack_all(ctx, shard, local, row);
  begun.received = ctx.empty(DType::f32, {equal ? ranks * rows * row : rows * shard.P});
  begun.ticket = sequence.beside([&] {
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
  });
  return begun;
}

PastScores finish_gather_past(Context& ctx, Communicator& sequence, const SequencePartition& partition,
                              const LocalShard& shard, const PastGather& begun) {
  if (begun.ticket != nullptr) sequence.join(begun.ticket.get());
  const bool own_order = ctx.device() == Device::gpu && (sequence.size() == 1 || begun.reach > 0);
  if (own_order) {
    PastScores scores{begun.local, false, begun.received, begun.reach, {}};
    if (sequence.size() > 1) scores.neighbours = edge_neighbours(partition, shard);
    return scores;
  }
  if (sequence.size() == 1) return {pack_all(ctx, shard, begun.local, shard.past_count()), true, {}, 0, {}};
  if (begun.reach > 0) return {place_edges(ctx, shard, begun, edge_neighbours(partition, shard)), true, {}, 0, {}};
  return {unpack_all(ctx, sequence.size(), partition, shard, begun), true, {}, 0, {}};
}

}  // namespace restkv
