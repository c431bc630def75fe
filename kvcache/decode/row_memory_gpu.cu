// What eviction while decoding remembers of a sequence: rings of queries, sums, and rows as scoring reads them.
#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "kvcache/decode/device_rows.h"
#include "kvcache/gpu/layout.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 128;

// Blocks along x: layers; y: members. width: vectors of a token's queries in one layer.
__global__ void __launch_bounds__(kThreads) keep_queries_kernel(DeviceEvictBatch batch, int window, int64_t width) {
  const int64_t layer = blockIdx.x, slot = blockIdx.y, at = batch.position[slot] % window;
  const uint4* from = static_cast<const uint4*>(batch.q) + (layer * batch.slots + slot) * width;
  uint4* to = static_cast<uint4*>(batch.record[slot].ring) + (at * batch.layers + layer) * width;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) to[i] = from[i];
}

// Blocks along x: rows of q. Everything in vectors.
__global__ void __launch_bounds__(kThreads)
    begin_ring_kernel(const uint4* q, int64_t ld, int64_t width, int64_t first, int64_t window, int64_t layer,
                      int64_t layers, uint4* ring) {
  const int64_t at = (first + blockIdx.x) % window;
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    ring[(at * layers + layer) * width + i] = q[blockIdx.x * ld + i];
}

// Heads along y.
__global__ void __launch_bounds__(kThreads)
    begin_sums_kernel(DeviceKvLayer layer, int64_t group, int64_t L, const int64_t* column_sums) {
  const int64_t head = blockIdx.y, first = layer.first_row[head], length = layer.length[head];
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < length;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t position = layer.position[first + i];
    int64_t sum = 0;
    for (int64_t j = 0; j < group; ++j) sum += column_sums[(head * group + j) * L + position];
    layer.sums[first + i] = sum;
  }
}

// Blocks along x: layers and members; y: heads. A head is d / 2 words and its log-sum-exp.
__global__ void __launch_bounds__(kThreads)
    pack_queries_kernel(StepQueries s, const uint32_t* q, const float* lse, int32_t* message) {
  const int64_t layer = blockIdx.x / s.count, member = blockIdx.x % s.count, head = blockIdx.y, half = s.d / 2;
  const int64_t from = (layer * s.slots + member) * s.heads + head;
  int32_t* to = message + (static_cast<int64_t>(blockIdx.x) * s.most + head) * (half + 1);
  for (int64_t i = threadIdx.x; i < half; i += kThreads) to[i] = static_cast<int32_t>(q[from * half + i]);
  if (threadIdx.x == 0) to[half] = __float_as_int(lse[from]);
}

// Blocks as above, heads of the span.
__global__ void __launch_bounds__(kThreads)
    unpack_queries_kernel(StepQueries s, __grid_constant__ const QuerySources sources, const int32_t* messages,
                          uint32_t* q, float* lse) {
  const int64_t layer = blockIdx.x / s.count, member = blockIdx.x % s.count, head = blockIdx.y, half = s.d / 2;
  const int32_t* from = messages + sources.rank[head] * s.words() +
                        (static_cast<int64_t>(blockIdx.x) * s.most + sources.head[head]) * (half + 1);
  const int64_t to = (layer * s.slots + member) * sources.count + head;
  for (int64_t i = threadIdx.x; i < half; i += kThreads) q[to * half + i] = static_cast<uint32_t>(from[i]);
  if (threadIdx.x == 0) lse[to] = __int_as_float(from[half]);
}

// Blocks along x: vectors of a head; y: heads.
__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(const DeviceKvLayer* layer, int64_t first_head, int64_t n, int64_t vectors, uint4* k, uint4* v) {
  const int64_t head = blockIdx.y, heads = gridDim.y, at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= n * vectors) return;
  const int64_t row = at / vectors, part = at - row * vectors;
  const int64_t from = layer->first_row[first_head + head] * vectors + at, to = (row * heads + head) * vectors + part;
  k[to] = static_cast<const uint4*>(layer->k)[from];
  v[to] = static_cast<const uint4*>(layer->v)[from];
}

}  // namespace

void pack_queries(Context& ctx, const StepQueries& shape, const void* q, const float* lse, int32_t* message) {
  if (shape.heads == 0 || shape.count == 0) return;
  const dim3 grid(static_cast<unsigned>(shape.layers * shape.count), static_cast<unsigned>(shape.heads));
  pack_queries_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(shape, static_cast<const uint32_t*>(q), lse, message);
  RESTKV_KERNEL_CHECK();
}

void unpack_queries(Context& ctx, const StepQueries& shape, const QuerySources& sources, const int32_t* messages,
                    void* q, float* lse) {
  if (sources.count == 0 || shape.count == 0) return;
  const dim3 grid(static_cast<unsigned>(shape.layers * shape.count), static_cast<unsigned>(sources.count));
  unpack_queries_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(shape, sources, messages, static_cast<uint32_t*>(q),
                                                               lse);
  RESTKV_KERNEL_CHECK();
}

void keep_queries(Context& ctx, const DeviceEvictBatch& batch, int64_t count, int64_t window) {
  if (batch.heads == 0 || count == 0) return;
  RESTKV_CHECK(batch.d % 8 == 0, "queries of size {}", batch.d);
  const dim3 grid(static_cast<unsigned>(batch.layers), static_cast<unsigned>(count));
  keep_queries_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(batch, static_cast<int>(window),
                                                             batch.heads * batch.group * batch.d / 8);
  RESTKV_KERNEL_CHECK();
}

void begin_ring(Context& ctx, const MatrixView& q, int64_t first, int64_t width, int64_t L, int64_t window,
                int64_t layer, int64_t layers, void* ring) {
  if (width == 0 || q.rows == 0) return;
  const MatrixView columns = q.block(0, q.rows, first, width);
  RESTKV_CHECK(q.dtype == DType::bf16 && width % 8 == 0 && aligned_rows(columns, 16),
               "queries {}[{}, {}], columns [{}, {})", name_of(q.dtype), q.rows, q.cols, first, first + width);
  begin_ring_kernel<<<static_cast<unsigned>(q.rows), kThreads, 0, stream_of(ctx)>>>(
      static_cast<const uint4*>(columns.data), q.ld / 8, width / 8, L - q.rows, window, layer, layers,
      static_cast<uint4*>(ring));
  RESTKV_KERNEL_CHECK();
}

void begin_row_sums(Context& ctx, const DeviceKvLayer& layer, int64_t heads, int64_t group, int64_t L,
                    const int64_t* column_sums) {
  if (heads == 0) return;
  RESTKV_CHECK(layer.sums != nullptr, "a cache without sums");
  begin_sums_kernel<<<dim3(16, static_cast<unsigned>(heads)), kThreads, 0, stream_of(ctx)>>>(layer, group, L,
                                                                                             column_sums);
  RESTKV_KERNEL_CHECK();
}

void gather_rows(Context& ctx, const DeviceKvLayer* layer, int64_t first_head, int64_t heads, int64_t n, int64_t d,
                 void* k, void* v) {
  if (heads == 0 || n == 0) return;
  const dim3 grid(blocks_for(n * d / 8, kThreads), static_cast<unsigned>(heads));
  gather_rows_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(layer, first_head, n, d / 8, static_cast<uint4*>(k),
                                                            static_cast<uint4*>(v));
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
