#include "kvcache/scores/pooling.h"

#include <algorithm>

#include "dist/base/error.h"

namespace restkv {

static_assert(sizeof(PoolWindow) == 2 * sizeof(int64_t));

void pool_scores(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, PoolEdge edge,
                 const Tensor& windows, float* pooled) {
  const Tensor values = Tensor::view(const_cast<float*>(scores), DType::f32, {rows, shard.P}, ctx.device());
  pool_scores(ctx, shard, PastScores{values, true, {}, 0, {}}, rows, edge, windows, pooled);
}

void pool_scores(Context& ctx, const LocalShard& shard, const PastScores& scores, int64_t rows, PoolEdge edge,
                 const Tensor& windows, float* pooled) {
  RESTKV_CHECK(windows.dtype() == DType::i64 && windows.numel() == 2 * rows, "windows {} for {} rows",
               windows.describe(), rows);
  const PoolWindow* window = static_cast<const PoolWindow*>(windows.raw());
  if (ctx.device() == Device::gpu) return gpu::pool_scores(ctx, shard, scores, rows, edge, window, pooled);
  RESTKV_CHECK(scores.by_position, "scores in local order: those of GPU ranks");
  for (int64_t row = 0; row < rows; ++row)
    RESTKV_CHECK(window[row].width() >= 1, "empty pooling window [{}, {}]", window[row].first, window[row].last);
  cpu::pool_scores(ctx, shard, scores.values.data<float>(), rows, edge, window, pooled);
}

Tensor equal_windows(Context& ctx, int64_t rows, PoolWindow window) {
  RESTKV_CHECK(window.width() >= 1, "empty pooling window [{}, {}]", window.first, window.last);
  Tensor windows = ctx.empty(DType::i64, {rows, 2});
  PoolWindow* all = static_cast<PoolWindow*>(windows.raw());
  if (ctx.device() == Device::gpu)
    gpu::equal_windows(ctx, rows, window, all);
  else
    std::fill_n(all, rows, window);
  return windows;
}

}  // namespace restkv
