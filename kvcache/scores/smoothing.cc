#include "kvcache/scores/smoothing.h"

#include <algorithm>

#include "kvcache/scores/drift.h"
#include "kvcache/scores/pooling.h"

namespace restkv {

int64_t pooling_reach(const CacheConfig& config, int64_t L) {
  return config.pooling == Pooling::adaptive ? adaptive_reach(L, config.kernel_size, config.beta)
                                             : std::min(L, config.kernel_size / 2);
}

PolicyScores smooth_scores(LayerStatistics& layer, Tensor scores) {
  const CacheConfig& config = layer.config();
  const int64_t rows = layer.heads().Hq_lc();
  if (config.pooling == Pooling::none) return {std::move(scores), {}, {}};
  PolicyScores result;
  Tensor windows;
  layer.begin_gather_past(scores, pooling_reach(config, layer.shard().L));
  PoolEdge edge = config.pooling == Pooling::max ? PoolEdge::lowest : PoolEdge::zero;
  if (config.pooling == Pooling::adaptive) {
    edge = PoolEdge::replicate;
    AdaptiveWindows adaptive = adaptive_windows(layer.ctx(), layer.top_position_sums(), config.window,
                                                layer.past_budget(), config.kernel_size, config.beta);
    windows = adaptive.windows;
    result.kernel = adaptive.kernel;
    result.shift = adaptive.shift;
  } else {
    windows = equal_windows(layer.ctx(), rows, {-(config.kernel_size / 2), config.kernel_size / 2});
  }
  const PastScores all = layer.finish_gather_past();
  result.values = layer.new_rows(rows);
  pool_scores(layer.ctx(), layer.shard(), all, rows, edge, windows, result.values.data<float>());
  return result;
}

}  // namespace restkv
