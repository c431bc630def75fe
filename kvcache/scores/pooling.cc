#include "kvcache/scores/pooling.h"

#include "kvcache/device_dispatch.h"

namespace restkv {

void pool_scores(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, PoolEdge edge,
                 const std::vector<PoolWindow>& window, float* pooled) {
  need_cpu(ctx, "pool_scores");
  RESTKV_CHECK(static_cast<int64_t>(window.size()) == rows, "{} windows for {} rows", window.size(), rows);
  for (const PoolWindow& w : window) RESTKV_CHECK(w.width() >= 1, "empty pooling window [{}, {}]", w.first, w.last);
  cpu::pool_scores(ctx, shard, scores, rows, edge, window, pooled);
}

}  // namespace restkv
