// Slots of rows that are spread over ranks: every rank's positions to all, then each row counts those below its own.
#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/position_search.h"
#include "kvcache/slots.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

// Blocks along x: rows, y: heads.
__global__ void __launch_bounds__(kThreads) pack(DeviceKvLayer layer, int64_t most, int32_t* message) {
  const int64_t head = blockIdx.y, first_row = layer.first_row[head];
  // Never more than `most`; a longer head would write into its neighbour's list.
  const int64_t wanted = layer.length[head], length = wanted < most ? wanted : most;
  if (blockIdx.x == 0 && threadIdx.x == 0) message[gridDim.y * most + head] = static_cast<int32_t>(length);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < length; i += step)
    message[head * most + i] = layer.position[first_row + i];
}

// Blocks as above.
__global__ void __launch_bounds__(kThreads)
    count(const int32_t* messages, int ranks, int64_t most, int64_t words, DeviceKvLayer layer) {
  const int64_t head = blockIdx.y, first_row = layer.first_row[head], length = layer.length[head];
  const int32_t* lengths = messages + gridDim.y * most + head;  // of rank r: lengths[r * words]
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    int total = 0;
    for (int rank = 0; rank < ranks; ++rank) total += lengths[rank * words];
    layer.total[head] = total;
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < length; i += step) {
    const int32_t position = layer.position[first_row + i];
    int below = 0;
    for (int rank = 0; rank < ranks; ++rank)
      below += count_below(messages + rank * words + head * most, lengths[rank * words], position);
    layer.slot[first_row + i] = below;
  }
}

dim3 grid_of(int64_t heads, int64_t most) {
  RESTKV_CHECK(heads <= 65535, "{} heads", heads);
  return dim3(static_cast<unsigned>(std::clamp<int64_t>((most + kThreads - 1) / kThreads, 1, 1024)),
              static_cast<unsigned>(heads));
}

}  // namespace

void pack_positions(Context& ctx, const DeviceKvLayer& layer, int64_t heads, int64_t most, int32_t* message) {
  pack<<<grid_of(heads, most), kThreads, 0, stream_of(ctx)>>>(layer, most, message);
  RESTKV_KERNEL_CHECK();
}

void count_slots(Context& ctx, const int32_t* messages, int ranks, int64_t heads, int64_t most,
                 const DeviceKvLayer& layer) {
  count<<<grid_of(heads, most), kThreads, 0, stream_of(ctx)>>>(messages, ranks, most, heads * (most + 1), layer);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
