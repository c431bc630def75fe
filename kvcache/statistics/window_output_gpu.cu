// Partial outputs per block of the grid. Within a block of threads every sum runs in an order that depends on the place
// in the grid's block alone.
#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/gpu/softmax_weight.h"
#include "kvcache/gpu/tensor_core.h"
#include "kvcache/statistics/window_output_kernels.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRun = 1024;  // positions whose weights are in shared memory together

struct PastArguments {
  BlockGrid grid;
  HeadMap heads;
  int64_t stride, v_ld;
  const float* a;
  float* partials;
};

// Past positions of a block.
__device__ inline int64_t past_of(const BlockGrid& grid, int b) {
  return max(int64_t{0}, min(grid.P - grid.global(b), grid.count(b)));
}

// Vectors of values that every thread has under way.
constexpr int kAhead = 8;

template <int kD, int kHeads>
constexpr int past_shared_bytes() {
  const int weights = kRun * kHeads * 4, ring = kAhead * kThreads * 16, sums = kWarps * kHeads * kD * 4;
  return std::max(weights + ring, sums);
}

// Values of eight columns per thread for kHeads query heads at once: values are read once per KV head. They come
// through a ring in shared memory of which a thread reads what it has fetched itself, so no thread waits for another.
template <int kD, int kHeads>
__global__ void __launch_bounds__(kThreads) past_output_kernel(PastArguments p, const __nv_bfloat16* v) {
  constexpr int kLanes = kD / 8;  // threads per row of values
  constexpr int kRows = kThreads / kLanes;
  extern __shared__ __align__(
      16) float shared[];  // weights [kRun][kHeads] and the ring, then sums [kWarps][kHeads][kD]
  uint4* ring = reinterpret_cast<uint4*>(shared + kRun * kHeads) + threadIdx.x;
  const int g = blockIdx.x, b = blockIdx.y;
  const int first_head = p.heads.first(g) + blockIdx.z * kHeads;
  const int heads = min(kHeads, p.heads.count(g) - static_cast<int>(blockIdx.z) * kHeads);
  if (heads <= 0) return;
  const int64_t local = p.grid.local(b), past = past_of(p.grid, b);
  const int lane = threadIdx.x % kLanes, row = threadIdx.x / kLanes;
  float acc[kHeads][8] = {};
  for (int64_t base = 0; base < past; base += kRun) {
    const int count = static_cast<int>(min(int64_t{kRun}, past - base));
    const __nv_bfloat16* from = v + (local + base + row) * p.v_ld + g * kD + lane * 8;
    const auto fetch = [&](int i) {
      if (row + i * kRows < count)
        copy_async16(shared_address(ring + i % kAhead * kThreads), from + i * kRows * p.v_ld, true);
      commit_copies();
    };
    for (int i = 0; i < kAhead - 1; ++i) fetch(i);
    __syncthreads();
    for (int i = threadIdx.x; i < kHeads * kRun; i += kThreads) {
      const int h = i / kRun, j = i % kRun;
      const bool valid = h < heads && j < count;
      shared[j * kHeads + h] = valid ? p.a[static_cast<int64_t>(first_head + h) * p.stride + local + base + j] : 0.0f;
    }
    __syncthreads();
    for (int i = 0; row + i * kRows < count; ++i) {
      wait_groups<kAhead - 2>();
      float x[8];
      unpack(*reinterpret_cast<const Bf16x8*>(ring + i % kAhead * kThreads), x);
      const float* weights = shared + (row + i * kRows) * kHeads;
#pragma unroll
      for (int h = 0; h < kHeads; ++h)
#pragma unroll
        for (int c = 0; c < 8; ++c) acc[h][c] = fmaf(weights[h], x[c], acc[h][c]);
      fetch(i + kAhead - 1);  // into the place of the step before, which has been used
    }
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < kHeads; ++h)
#pragma unroll
    for (int c = 0; c < 8; ++c) {
#pragma unroll
      for (int offset = kLanes; offset < 32; offset *= 2) acc[h][c] += __shfl_xor_sync(0xffffffffu, acc[h][c], offset);
      if (threadIdx.x % 32 < kLanes) shared[(threadIdx.x / 32 * kHeads + h) * kD + lane * 8 + c] = acc[h][c];
    }
  __syncthreads();
  float* out = p.partials + (static_cast<int64_t>(b) * p.heads.Hq_lc + first_head) * kD;
  for (int i = threadIdx.x; i < heads * kD; i += kThreads) {
    float sum = shared[i];
    for (int warp = 1; warp < kWarps; ++warp) sum += shared[warp * kHeads * kD + i];
    out[i] = sum;
  }
}

// Any head size and dtype: one column per thread, one chain of multiply-adds over the block's positions.
template <class T>
__global__ void plain_past_output_kernel(PastArguments p, const T* v) {
  const int h = blockIdx.x, b = blockIdx.y, d = p.heads.d;
  const int g = (p.heads.q_begin + h) / p.heads.group - p.heads.kv_begin;
  const int64_t local = p.grid.local(b), past = past_of(p.grid, b);
  const float* a = p.a + h * p.stride + local;
  for (int c = threadIdx.x; c < d; c += blockDim.x) {
    const T* from = v + local * p.v_ld + g * d + c;
    float sum = 0.0f;
    for (int64_t i = 0; i < past; ++i) sum = fmaf(a[i], to_f32(from[i * p.v_ld]), sum);
    p.partials[(static_cast<int64_t>(b) * p.heads.Hq_lc + h) * d + c] = sum;
  }
}

template <int kD, int kHeads>
void launch_past(Context& ctx, const PastArguments& p, const __nv_bfloat16* v, int group) {
  constexpr int kBytes = past_shared_bytes<kD, kHeads>();
  auto kernel = past_output_kernel<kD, kHeads>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  kernel<<<dim3(p.heads.Hkv_lc, p.grid.blocks, blocks_for(group, kHeads)), kThreads, kBytes, stream_of(ctx)>>>(p, v);
  RESTKV_KERNEL_CHECK();
}

template <int kD>
void launch_past(Context& ctx, const PastArguments& p, const __nv_bfloat16* v, int group) {
  if (group == 1) return launch_past<kD, 1>(ctx, p, v, group);
  if (group == 2) return launch_past<kD, 2>(ctx, p, v, group);
  if (group <= 4) return launch_past<kD, 4>(ctx, p, v, group);
  launch_past<kD, 8>(ctx, p, v, group);
}

// A tile of the product of a block's weights [rows, positions] and values [positions, d].
constexpr int kTileRows = 64;
constexpr int kTileColumns = 128;
constexpr int kTileDepth = 32;

// Each thread sums four rows and eight columns.
template <class T>
__global__ void __launch_bounds__(kThreads) window_output_kernel(WindowArguments p, const T* v, int row_tiles) {
  __shared__ __align__(16) float weights[kTileDepth][kTileRows + 4];
  __shared__ __align__(16) float values[kTileDepth][kTileColumns];
  const int g = blockIdx.x, b = blockIdx.y, d = p.heads.d;
  const int row0 = static_cast<int>(blockIdx.z) % row_tiles * kTileRows;
  const int column0 = static_cast<int>(blockIdx.z) / row_tiles * kTileColumns;
  const int rows = p.heads.count(g) * p.W;
  if (row0 >= rows) return;
  const int64_t local = p.grid.local(b), count = p.grid.count(b);
  const int64_t first_row = static_cast<int64_t>(p.heads.first(g)) * p.W + row0;
  const int r = threadIdx.x / 16 * 4, c = threadIdx.x % 16 * 8;
  float acc[4][8] = {};
  for (int64_t base = 0; base < count; base += kTileDepth) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTileRows * kTileDepth; i += kThreads) {
      const int row = i / kTileDepth, j = i % kTileDepth;
      const bool valid = row0 + row < rows && base + j < count;
      weights[j][row] = valid ? softmax_weight(p.logits[(first_row + row) * p.stride + local + base + j],
                                               __ldg(p.softmax + first_row + row))
                              : 0.0f;
    }
    for (int i = threadIdx.x; i < kTileDepth * kTileColumns; i += kThreads) {
      const int j = i / kTileColumns, column = column0 + i % kTileColumns;
      const bool valid = base + j < count && column < d;
      values[j][i % kTileColumns] = valid ? to_f32(v[(local + base + j) * p.v_ld + g * d + column]) : 0.0f;
    }
    __syncthreads();
#pragma unroll 4
    for (int j = 0; j < kTileDepth; ++j) {
      const float4 w = *reinterpret_cast<const float4*>(&weights[j][r]);
      const float4 lo = *reinterpret_cast<const float4*>(&values[j][c]);
      const float4 hi = *reinterpret_cast<const float4*>(&values[j][c + 4]);
      const float x[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
      const float y[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 8; ++n) acc[m][n] = fmaf(y[m], x[n], acc[m][n]);
    }
  }
  float* out = p.partials + (static_cast<int64_t>(b) * p.heads.Hq_lc * p.W + first_row) * d;
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int n = 0; n < 8; ++n)
      if (row0 + r + m < rows && column0 + c + n < d)
        out[static_cast<int64_t>(r + m) * d + column0 + c + n] = acc[m][n];
}

constexpr int kFoldWarps = 8;

// One lane per element, the blocks of the grid dealt to the warps: an order that depends on the grid alone.
__global__ void __launch_bounds__(32 * kFoldWarps)
    fold_outputs_kernel(const float* gathered, __grid_constant__ const SlotRuns slots, int64_t elements,
                        float* output) {
  __shared__ double part[kFoldWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  double sum = 0.0;
  if (i < elements)
    slots.for_blocks(warp, kFoldWarps, [&](int slot) { sum += static_cast<double>(gathered[slot * elements + i]); });
  part[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || i >= elements) return;
  for (int w = 1; w < kFoldWarps; ++w) sum += part[w][lane];
  output[i] = static_cast<float>(sum);
}

}  // namespace

void past_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const MatrixView& v, float* partials) {
  if (shard.L_lc == 0 || heads.Hq_lc() == 0) return;
  const PastArguments p{block_grid(shard), head_map(heads), shard.stride, v.ld, a, partials};
  RESTKV_CHECK(p.grid.blocks <= 65535, "past_output_partials: {} blocks", p.grid.blocks);
  if (v.dtype == DType::bf16 && aligned_rows(v, 16)) {
    const auto* values = static_cast<const __nv_bfloat16*>(v.data);
    const int group = static_cast<int>(heads.group());  // a whole one, for equal bits where ranks share it
    if (heads.d == 64) return launch_past<64>(ctx, p, values, group);
    if (heads.d == 128) return launch_past<128>(ctx, p, values, group);
    if (heads.d == 256) return launch_past<256>(ctx, p, values, group);
  }
  with_elements("past_output_partials", v, [&](const auto* values) {
    plain_past_output_kernel<<<dim3(p.heads.Hq_lc, p.grid.blocks), 128, 0, stream_of(ctx)>>>(p, values);
    RESTKV_KERNEL_CHECK();
  });
}

void window_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                            const float* softmax, const MatrixView& v, float* partials) {
  window_output_partials(ctx, heads, shard, logits, softmax, v, partials, OutputKernel::fastest);
}

void window_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                            const float* softmax, const MatrixView& v, float* partials, OutputKernel kernel) {
  if (shard.L_lc == 0 || heads.Hq_lc() == 0) return;
  const WindowArguments p{block_grid(shard),
                          head_map(heads),
                          static_cast<int>(shard.W),
                          shard.stride,
                          v.ld,
                          logits,
                          reinterpret_cast<const float2*>(softmax),
                          partials};
  RESTKV_CHECK(p.grid.blocks <= 65535, "window_output_partials: {} blocks", p.grid.blocks);
  // Nothing that depends on the layout may choose the kernel: outputs are the same bits on all.
  const bool products = v.dtype == DType::bf16 && aligned_rows(v, 16) &&
                        (heads.d == 64 || heads.d == 128 || heads.d == 256) && has_warpgroups();
  RESTKV_CHECK(products || kernel != OutputKernel::warpgroups,
               "window_output_partials: no tensor-core kernel for {} of {}", name_of(v.dtype), heads.d);
  if (products && kernel != OutputKernel::plain)
    return warpgroup_outputs(ctx, p, static_cast<const __nv_bfloat16*>(v.data), largest_group(heads));
  const unsigned row_tiles = blocks_for(largest_group(heads) * shard.W, kTileRows);
  const dim3 cells(p.heads.Hkv_lc, p.grid.blocks, row_tiles * blocks_for(heads.d, kTileColumns));
  with_elements("window_output_partials", v, [&](const auto* values) {
    window_output_kernel<<<cells, kThreads, 0, stream_of(ctx)>>>(p, values, static_cast<int>(row_tiles));
    RESTKV_KERNEL_CHECK();
  });
}

void fold_outputs(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, int64_t d,
                  float* output) {
  if (rows == 0) return;
  fold_outputs_kernel<<<blocks_for(rows * d, 32), 32 * kFoldWarps, 0, stream_of(ctx)>>>(gathered, slot_runs(slot),
                                                                                        rows * d, output);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
