#include "kvcache/scores/pooling.h"

#include <algorithm>

#include "kvcache/device_dispatch.h"

namespace restkv {

static_assert(sizeof(PoolWindow) == 2 * sizeof(int64_t));

void pool_scores(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, PoolEdge edge,
                 const Tensor& windows, float* pooled) {
  need_cpu(ctx, "pool_scores");
  RESTKV_CHECK(windows.dtype() == DType::i64 && windows.numel() == 2 * rows, "windows {} for {} rows",
               windows.describe(), rows);
  const PoolWindow* window = static_cast<const PoolWindow*>(windows.raw());
  for (int64_t row = 0; row < rows; ++row)
    RESTKV_CHECK(window[row].width() >= 1, "empty pooling window [{}, {}]", window[row].first, window[row].last);
  cpu::pool_scores(ctx, shard, scores, rows, edge, window, pooled);
}

Tensor equal_windows(Context& ctx, int64_t rows, PoolWindow window) {
  need_cpu(ctx, "equal_windows");
  Tensor windows = ctx.empty(DType::i64, {rows, 2});
  std::fill_n(static_cast<PoolWindow*>(windows.raw()), rows, window);
  return windows;
}

}  // namespace restkv
