// K and V of heads whose rows are spread over ranks, in the order of their positions on every rank; and the way back,
// from what is kept of all rows to what is kept of one's own.
#include "dist/base/gpu_handles.h"
#include "kvcache/decode/group_rows_gpu.h"
#include "kvcache/gpu/layout.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = kCutThreads;

// Blocks along x: vectors of 16 bytes of a head; y: heads of the run.
__global__ void __launch_bounds__(kThreads)
    pack_kv_kernel(DeviceEvictBatch batch, DueSlots due, RowRun run, int64_t most, int vectors, uint4* to) {
  const Place place(batch, due, run, blockIdx.y, 0);
  const DeviceKvLayer& record = batch.layer[place.slot * batch.layers + place.layer];
  const int64_t length = min(static_cast<int64_t>(record.length[place.head]), most);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= length * vectors) return;
  const int64_t from = record.first_row[place.head] * vectors + i, at = place.entry * most * vectors + i;
  to[at] = static_cast<const uint4*>(record.k)[from];
  to[run.heads * most * vectors + at] = static_cast<const uint4*>(record.v)[from];
}

// A warp per row. Blocks along x: rows of one rank; y: heads; z: ranks.
__global__ void __launch_bounds__(kThreads)
    order_kernel(__grid_constant__ const GroupMessages m, int64_t at, int64_t n, int vectors, uint4* k, uint4* v) {
  const int64_t head = blockIdx.y, heads = gridDim.y;
  const int rank = static_cast<int>(blockIdx.z), lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(blockIdx.x) * (kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  const EntryRows rows(m, rank, head);
  if (row >= rows.count) return;
  const int64_t place = place_of(m, head, rows.positions[row]);
  if (place >= n) return;
  const auto* from_k =
      reinterpret_cast<const uint4*>(m.data + rank * m.stride + at) + (head * m.of.most + row) * vectors;
  const uint4* from_v = from_k + heads * m.of.most * vectors;
  for (int i = lane; i < 2 * vectors; i += 32) {
    if (i < vectors)
      k[(place * heads + head) * vectors + i] = from_k[i];
    else
      v[(place * heads + head) * vectors + i - vectors] = from_v[i - vectors];
  }
}

struct ListArgs {
  DeviceEvictBatch batch;
  DueSlots due;
  RowRun run;
  GroupMessages messages;
  const int32_t* kept;
  const int32_t* counts;
  int64_t kept_capacity;
  RowListsView lists;
};

// Blocks: heads of the run.
__global__ void __launch_bounds__(kThreads) list_kept_kernel(__grid_constant__ const ListArgs a) {
  __shared__ CutShared s;
  const Place at(a.batch, a.due, a.run, blockIdx.x, 0);
  const EntryRows mine(a.messages, a.messages.rank, at.entry);
  const int32_t* kept = a.kept + at.entry * a.kept_capacity;
  const int count = a.counts[at.entry];
  const int listed = list_own(s, mine.count, a.lists, at.entry, [&](int i, int32_t&) {
    const auto place = static_cast<int32_t>(place_of(a.messages, at.entry, mine.positions[i]));
    const int found = count_below(kept, count, place);
    return found < count && kept[found] == place;
  });
  if (threadIdx.x != 0) return;
  a.lists.counts[at.entry] = listed;
  a.batch.record[at.slot].excess[at.layer * a.batch.heads + at.head] = count - a.batch.position[at.slot];
}

}  // namespace

void pack_kv(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run,
             const GroupMessage& shape, int64_t at, int32_t* message) {
  if (run.heads == 0) return;
  RESTKV_CHECK(due.count == 1 && run.layers == 1 && !shape.keys && at % 4 == 0 && at >= shape.words() &&
                   batch.d % 8 == 0 && run.heads <= 65535,
               "K and V of {} members and {} layers from word {}", due.count, run.layers, at);
  pack_rows(ctx, batch, due, {}, run, shape, message);
  const int vectors = static_cast<int>(batch.d / 8);
  const dim3 grid(blocks_for(shape.most * vectors, kThreads), static_cast<unsigned>(run.heads));
  pack_kv_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(batch, due, run, shape.most, vectors,
                                                        reinterpret_cast<uint4*>(message + at));
  RESTKV_KERNEL_CHECK();
}

void order_kv(Context& ctx, const GroupMessages& messages, int64_t heads, int64_t at, int64_t n, int64_t d, void* k,
              void* v) {
  if (heads == 0 || n == 0) return;
  RESTKV_CHECK(messages.stride % 4 == 0 && at % 4 == 0, "messages {} words apart, K from word {}", messages.stride, at);
  const dim3 grid(blocks_for(messages.of.most, kThreads / 32), static_cast<unsigned>(heads),
                  static_cast<unsigned>(messages.ranks));
  order_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(messages, at, n, static_cast<int>(d / 8), static_cast<uint4*>(k),
                                                      static_cast<uint4*>(v));
  RESTKV_KERNEL_CHECK();
}

void list_kept(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run,
               const GroupMessages& messages, const int32_t* kept, const int32_t* counts, int64_t kept_capacity,
               const RowListsView& lists) {
  if (run.heads == 0) return;
  const ListArgs args{batch, due, run, messages, kept, counts, kept_capacity, lists};
  list_kept_kernel<<<static_cast<unsigned>(run.heads), kThreads, 0, stream_of(ctx)>>>(args);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
