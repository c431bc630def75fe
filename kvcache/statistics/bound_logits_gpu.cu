#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/statistics/bound_logits.h"
#include "kvcache/statistics/window_logits.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

// One block of threads per kThreads positions of a block of the grid and row.
__global__ void __launch_bounds__(kThreads)
    bound_kernel(BlockGrid grid, int W, int64_t rows, int64_t stride, float scale, float cap, int64_t window, int tiles,
                 float* logits) {
  const int b = blockIdx.x / tiles;
  const int64_t i = static_cast<int64_t>(blockIdx.x % tiles) * kThreads + threadIdx.x;
  if (i >= grid.count(b)) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t position = grid.P + row % W, key = grid.global(b) + i;
    if (key > position) continue;
    float* at = logits + row * stride + grid.local(b) + i;
    float x = *at * scale;
    if (cap > 0.0f) x = cap * tanhf(x / cap);
    *at = window > 0 && key <= position - window ? -INFINITY : x;
  }
}

}  // namespace

void bound_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const AttentionForm& form,
                  float* logits, float* partials) {
  const BlockGrid grid = block_grid(shard);
  const int64_t rows = heads.Hq_lc() * shard.W;
  if (grid.blocks == 0 || rows == 0) return;
  const unsigned tiles = blocks_for(grid.size, kThreads);
  const dim3 cells(grid.blocks * tiles, static_cast<unsigned>(std::min<int64_t>(rows, 65535)));
  bound_kernel<<<cells, kThreads, 0, stream_of(ctx)>>>(
      grid, static_cast<int>(shard.W), rows, shard.stride, static_cast<float>(form.relative_scale(heads.d)),
      static_cast<float>(form.softcap), form.sliding_window, static_cast<int>(tiles), logits);
  RESTKV_KERNEL_CHECK();
  softmax_partials(ctx, shard, rows, logits, partials);
}

}  // namespace restkv::gpu
