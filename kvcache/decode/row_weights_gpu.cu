// What a step's queries say of the cached rows, for all layers, heads and members of a batch in one launch.
#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "kvcache/decode/device_rows.h"
#include "kvcache/gpu/row_keys.h"
#include "kvcache/statistics/column_sums.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocks = 16;  // of one head's rows: a launch in a graph does not know how many there are
constexpr int kAtOnce = 4;   // rows on their way per group of lanes
constexpr int kMostQueries = 16;
constexpr int kMostSize = 256;

// One cache head of one layer of one sequence.
struct Head {
  const __nv_bfloat16* k;
  int64_t first_row;
  int length;
};

__device__ Head find_head(const DeviceEvictBatch& batch, int64_t slot, int64_t layer, int64_t head) {
  const DeviceKvLayer& record = batch.layer[slot * batch.layers + layer];
  Head found;
  found.first_row = record.first_row[head];
  found.k = static_cast<const __nv_bfloat16*>(record.k) + found.first_row * batch.d;
  found.length = record.length[head];
  return found;
}

// Calls each(row, x) on the kLanes lanes that share a row, for rows [0, rows) dealt to all blocks of the head: x are
// the row's elements 8 lane .. 8 lane + 7, zeros beyond d. All lanes of a warp call it equally often; row < 0: none.
template <int kLanes, class Each>
__device__ void for_rows(const __nv_bfloat16* k, int rows, int d, Each each) {
  constexpr int kRows = kThreads / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, mine = static_cast<int>(threadIdx.x) / kLanes;
  const bool there = 8 * lane < d;
  for (int first = static_cast<int>(blockIdx.x) * kRows * kAtOnce; first < rows;
       first += static_cast<int>(gridDim.x) * kRows * kAtOnce) {
    Bf16x8 x[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int row = first + u * kRows + mine;
      x[u] = {};
      if (there && row < rows) x[u] = load8(k + static_cast<int64_t>(row) * d + 8 * lane);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int row = first + u * kRows + mine;
      float values[8];
      unpack(x[u], values);
      each(row < rows ? row : -1, values);
    }
  }
}

template <int kLanes>
__device__ float sum_lanes(float x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// add(row, sum) on one lane per row: the weights of the group's queries, as integers.
template <int kLanes, class Add>
__device__ void weigh_rows(const DeviceEvictBatch& batch, int64_t slot, int64_t layer, int64_t head, const Head& rows,
                           int count, Add add) {
  __shared__ float q[kMostQueries * kMostSize];
  __shared__ float lse[kMostQueries];
  const int d = static_cast<int>(batch.d), group = static_cast<int>(batch.group);
  const int64_t first = ((layer * batch.slots + slot) * batch.heads + head) * group;
  const auto* from = static_cast<const __nv_bfloat16*>(batch.q) + first * d;
  for (int i = static_cast<int>(threadIdx.x); i < group * d; i += kThreads) q[i] = __bfloat162float(from[i]);
  if (static_cast<int>(threadIdx.x) < group) lse[threadIdx.x] = batch.lse[first + threadIdx.x];
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const bool there = 8 * lane < d;
  const float scale = static_cast<float>(batch.scale);
  for_rows<kLanes>(rows.k, count, d, [&](int row, const float(&x)[8]) {
    long long sum = 0;
    for (int j = 0; j < group; ++j) {
      float dot = 0.0f;
      if (there) {
#pragma unroll
        for (int i = 0; i < 8; ++i) dot = fmaf(x[i], q[j * d + 8 * lane + i], dot);
      }
      dot = sum_lanes<kLanes>(dot);
      if (lane == j % kLanes) sum += column_sum_of(expf(dot * scale - lse[j]));
    }
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0 && row >= 0) add(row, sum);
  });
}

// Blocks along x: rows; y: heads; z: members and layers.
template <int kLanes>
__global__ void __launch_bounds__(kThreads) row_sums_kernel(DeviceEvictBatch batch) {
  const int64_t slot = blockIdx.z / batch.layers, layer = blockIdx.z % batch.layers, head = blockIdx.y;
  const Head rows = find_head(batch, slot, layer, head);
  int64_t* sums = batch.layer[slot * batch.layers + layer].sums + rows.first_row;
  const int appended = batch.owner == nullptr || batch.owner[slot] != 0 ? 1 : 0;
  weigh_rows<kLanes>(batch, slot, layer, head, rows, rows.length + appended,
                     [&](int row, int64_t sum) { sums[row] = (row == rows.length ? 0 : sums[row]) + sum; });
}

// Integers, so atomics may add the heads in any order.
template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    last_weights_kernel(DeviceEvictBatch batch, DueSlots due, int64_t* keys, int64_t stride) {
  const int64_t member = blockIdx.z / batch.layers, layer = blockIdx.z % batch.layers, head = blockIdx.y;
  const int64_t slot = due.slot[member];
  if (head < batch.first_counted) return;
  const Head rows = find_head(batch, slot, layer, head);
  int64_t* to = keys + blockIdx.z * stride;
  weigh_rows<kLanes>(batch, slot, layer, head, rows, rows.length, [&](int row, int64_t sum) {
    atomicAdd(reinterpret_cast<unsigned long long*>(to + row), static_cast<unsigned long long>(sum));
  });
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    key_norm_kernel(DeviceEvictBatch batch, DueSlots due, int64_t* keys, int64_t stride) {
  const int64_t member = blockIdx.z / batch.layers, layer = blockIdx.z % batch.layers, head = blockIdx.y;
  const Head rows = find_head(batch, due.slot[member], layer, head);
  int64_t* to = keys + (static_cast<int64_t>(blockIdx.z) * batch.heads + head) * stride;
  for_rows<kLanes>(rows.k, rows.length, static_cast<int>(batch.d), [&](int row, const float(&x)[8]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(x[i], x[i], sum);
    sum = sum_lanes<kLanes>(sum);
    if (threadIdx.x % kLanes == 0 && row >= 0) to[row] = static_cast<int64_t>(key_of(-sqrtf(sum)));
  });
}

// Calls body(integral constant): lanes that share a row of d elements.
template <class Body>
void with_lanes(int64_t d, Body body) {
  if (d <= 64) return body(std::integral_constant<int, 8>());
  if (d <= 128) return body(std::integral_constant<int, 16>());
  body(std::integral_constant<int, 32>());
}

dim3 grid_of(const DeviceEvictBatch& batch, int64_t members) {
  RESTKV_CHECK(batch.d % 8 == 0 && batch.d <= kMostSize && batch.group >= 1 && batch.group <= kMostQueries,
               "{} queries of size {} share a cache head (1 to {}, a multiple of 8 up to {})", batch.group, batch.d,
               kMostQueries, kMostSize);
  RESTKV_CHECK(members * batch.layers <= 65535 && batch.heads <= 65535, "{} members of {} layers", members,
               batch.layers);
  return {kBlocks, static_cast<unsigned>(batch.heads), static_cast<unsigned>(members * batch.layers)};
}

}  // namespace

void add_row_sums(Context& ctx, const DeviceEvictBatch& batch, int64_t count) {
  if (batch.heads == 0 || count == 0) return;
  with_lanes(batch.d, [&](auto lanes) {
    row_sums_kernel<lanes.value><<<grid_of(batch, count), kThreads, 0, stream_of(ctx)>>>(batch);
    RESTKV_KERNEL_CHECK();
  });
}

void sum_last_weights(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, int64_t* keys, int64_t stride) {
  ctx.fill_zero(keys, due.count * batch.layers * stride * static_cast<int64_t>(sizeof(int64_t)));
  if (batch.heads == 0 || due.count == 0) return;
  with_lanes(batch.d, [&](auto lanes) {
    last_weights_kernel<lanes.value>
        <<<grid_of(batch, due.count), kThreads, 0, stream_of(ctx)>>>(batch, due, keys, stride);
    RESTKV_KERNEL_CHECK();
  });
}

void key_norm_keys(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, int64_t* keys, int64_t stride) {
  if (batch.heads == 0 || due.count == 0) return;
  with_lanes(batch.d, [&](auto lanes) {
    key_norm_kernel<lanes.value><<<grid_of(batch, due.count), kThreads, 0, stream_of(ctx)>>>(batch, due, keys, stride);
    RESTKV_KERNEL_CHECK();
  });
}

}  // namespace restkv::gpu
