#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/statistics/exchange.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    copy_rows_kernel(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[blockIdx.y * to_stride + i] = from[blockIdx.y * from_stride + i];
}

template <class T>
void launch(Context& ctx, const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
            int64_t count) {
  constexpr int64_t kWidth = sizeof(T) / sizeof(float);
  copy_rows_kernel<<<dim3(blocks_for(count / kWidth, kThreads), static_cast<unsigned>(rows)), kThreads, 0,
                     stream_of(ctx)>>>(reinterpret_cast<const T*>(from), from_stride / kWidth, reinterpret_cast<T*>(to),
                                       to_stride / kWidth, count / kWidth);
  RESTKV_KERNEL_CHECK();
}

__global__ void __launch_bounds__(kThreads)
    pack_edges_kernel(const float* scores, int64_t stride, Segment lower, Segment upper, int64_t reach, float* edges) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= kEdgeStrips * reach) return;
  const int64_t strip = i / reach, at = i - strip * reach;
  const int64_t local = strip < 2 ? lower.local : upper.local, count = strip < 2 ? lower.count : upper.count;
  const int64_t offset = strip % 2 == 0 ? at : count - reach + at;
  const bool there = offset >= 0 && offset < count;
  edges[blockIdx.y * kEdgeStrips * reach + i] = there ? scores[blockIdx.y * stride + local + offset] : 0.0f;
}

}  // namespace

void pack_edges(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, int64_t reach, float* edges) {
  if (rows == 0) return;
  RESTKV_CHECK(rows <= 65535, "{} rows", rows);
  const Segment lower = shard.past.empty() ? Segment{} : shard.past[0];
  const Segment upper = shard.past.size() < 2 ? Segment{} : shard.past[1];
  const dim3 grid(blocks_for(kEdgeStrips * reach, kThreads), static_cast<unsigned>(rows));
  pack_edges_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(scores, shard.stride, lower, upper, reach, edges);
  RESTKV_KERNEL_CHECK();
}

void copy_rows(Context& ctx, const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
               int64_t count) {
  if (rows == 0 || count == 0) return;
  RESTKV_CHECK(rows <= 65535, "{} rows", rows);
  const bool vectors = (reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to)) % sizeof(float4) == 0 &&
                       (from_stride | to_stride | count) % 4 == 0;
  if (vectors) return launch<float4>(ctx, from, from_stride, to, to_stride, rows, count);
  launch<float>(ctx, from, from_stride, to, to_stride, rows, count);
}

}  // namespace restkv::gpu
