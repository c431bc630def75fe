// Window logits without tensor cores: f32 keys, where the sums must be exact to f32, and head sizes that the
// tensor-core kernel does not take. Also the fold of the partials, which both paths share.
#include <cmath>

#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/statistics/window_logits.h"

namespace restkv::gpu {
namespace {

constexpr int kKeys = 128;  // per block of threads, one key per thread
constexpr int kRows = 16;   // query rows per block of threads
constexpr int kDepth = 32;  // elements of d that are in shared memory together

// As on the CPU an element is one chain of multiply-adds over d, with the query scaled first.
template <class T>
__global__ void __launch_bounds__(kKeys)
    plain_logits_kernel(BlockGrid grid, HeadMap heads, int W, int64_t stride, int64_t q_ld, int64_t k_ld, float scale,
                        int tiles, const T* q, const T* k, float* logits) {
  __shared__ float queries[kRows][kDepth];
  __shared__ float keys[kDepth][kKeys + 1];
  const int b = blockIdx.x / tiles, g = blockIdx.y, row0 = blockIdx.z * kRows;
  const int64_t first = static_cast<int64_t>(blockIdx.x % tiles) * kKeys;
  const int first_head = heads.first(g), rows = heads.count(g) * W;
  const int64_t local = grid.local(b), count = grid.count(b);
  const int64_t padded = b + 1 < grid.blocks ? count : stride - local;
  if (row0 >= rows || first >= padded) return;
  float acc[kRows] = {};
  for (int k0 = 0; k0 < heads.d; k0 += kDepth) {
    __syncthreads();
    for (int i = threadIdx.x; i < kRows * kDepth; i += kKeys) {
      const int row = row0 + i / kDepth, c = k0 + i % kDepth;
      const int64_t at = row % W * q_ld + static_cast<int64_t>(first_head + row / W) * heads.d + c;
      queries[i / kDepth][i % kDepth] = row < rows && c < heads.d ? to_f32(q[at]) * scale : 0.0f;
    }
    for (int i = threadIdx.x; i < kKeys * kDepth; i += kKeys) {
      const int64_t key = first + i / kDepth;
      const int c = k0 + i % kDepth;
      const bool valid = key < count && c < heads.d;
      keys[i % kDepth][i / kDepth] = valid ? to_f32(k[(local + key) * k_ld + g * heads.d + c]) : 0.0f;
    }
    __syncthreads();
    const int depth = min(kDepth, heads.d - k0);
    for (int j = 0; j < depth; ++j) {
      const float x = keys[j][threadIdx.x];
#pragma unroll
      for (int r = 0; r < kRows; ++r) acc[r] = fmaf(queries[r][j], x, acc[r]);
    }
  }
  const int64_t key = first + threadIdx.x;
  if (key >= padded) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = row0 + r;
    if (row >= rows) break;
    const bool visible = key < count && grid.global(b) + key <= grid.P + row % W;
    logits[(static_cast<int64_t>(first_head) * W + row) * stride + local + key] = visible ? acc[r] : -INFINITY;
  }
}

// One warp per block of the grid and row.
__global__ void partials_kernel(BlockGrid grid, int64_t rows, int64_t stride, const float* logits, float2* partials) {
  const int b = blockIdx.x, lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const float* x = logits + row * stride + grid.local(b);
  const int64_t count = grid.count(b);
  float max = -INFINITY, sum = 0.0f;
  for (int64_t i = lane; i < count; i += 32) max = fmaxf(max, x[i]);
  max = warp_max(max);
  if (max != -INFINITY) {
    for (int64_t i = lane; i < count; i += 32) sum += expf(x[i] - max);
    sum = warp_sum(sum);
  }
  if (lane == 0) partials[b * rows + row] = make_float2(max, sum);
}

constexpr int kFoldWarps = 32;

// One lane per row, the blocks of the grid dealt to the warps: an order that depends on the grid alone.
__global__ void __launch_bounds__(32 * kFoldWarps)
    fold_softmax_kernel(const float2* gathered, __grid_constant__ const SlotRuns slots, int64_t rows, float2* softmax) {
  __shared__ float high[kFoldWarps][32];
  __shared__ double part[kFoldWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  const bool valid = row < rows;
  float max = -INFINITY;
  if (valid) slots.for_blocks(warp, kFoldWarps, [&](int slot) { max = fmaxf(max, gathered[slot * rows + row].x); });
  high[warp][lane] = max;
  __syncthreads();
  for (int i = 0; i < kFoldWarps; ++i) max = fmaxf(max, high[i][lane]);
  double sum = 0.0;
  if (valid)
    slots.for_blocks(warp, kFoldWarps, [&](int slot) {
      const float2 partial = gathered[slot * rows + row];
      if (partial.y > 0.0f) sum += static_cast<double>(partial.y) * expf(partial.x - max);
    });
  part[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || !valid) return;
  for (int i = 1; i < kFoldWarps; ++i) sum += part[i][lane];
  softmax[row] = make_float2(max, sum > 0.0 ? static_cast<float>(1.0 / sum) : 0.0f);
}

}  // namespace

void plain_window_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& q_window,
                         const MatrixView& k, float* logits, float* partials) {
  const BlockGrid grid = block_grid(shard);
  const int64_t rows = heads.Hq_lc() * shard.W;
  // The last block's padding may reach beyond a whole block.
  const int64_t longest = std::max(grid.size, shard.stride - grid.local(grid.blocks - 1));
  const unsigned tiles = blocks_for(longest, kKeys);
  const dim3 cells(grid.blocks * tiles, static_cast<unsigned>(heads.Hkv_lc()),
                   blocks_for(largest_group(heads) * shard.W, kRows));
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(heads.d)));
  with_elements("window_logits", k, [&](const auto* keys) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(keys)>>;
    plain_logits_kernel<T><<<cells, kKeys, 0, stream_of(ctx)>>>(grid, head_map(heads), static_cast<int>(shard.W),
                                                                shard.stride, q_window.ld, k.ld, scale, tiles,
                                                                static_cast<const T*>(q_window.data), keys, logits);
    RESTKV_KERNEL_CHECK();
  });
  softmax_partials(ctx, shard, rows, logits, partials);
}

void softmax_partials(Context& ctx, const LocalShard& shard, int64_t rows, const float* logits, float* partials) {
  const BlockGrid grid = block_grid(shard);
  partials_kernel<<<dim3(grid.blocks, blocks_for(rows, 8)), 256, 0, stream_of(ctx)>>>(
      grid, rows, shard.stride, logits, reinterpret_cast<float2*>(partials));
  RESTKV_KERNEL_CHECK();
}

void fold_softmax(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, float* softmax) {
  if (rows == 0) return;
  fold_softmax_kernel<<<blocks_for(rows, 32), 32 * kFoldWarps, 0, stream_of(ctx)>>>(
      reinterpret_cast<const float2*>(gathered), slot_runs(slot), rows, reinterpret_cast<float2*>(softmax));
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
