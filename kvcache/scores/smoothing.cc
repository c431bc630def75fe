#include "kvcache/scores/smoothing.h"

#include "kvcache/scores/drift.h"
#include "kvcache/scores/pooling.h"

namespace restkv {

PolicyScores smooth_scores(LayerStatistics& layer, Tensor scores) {
  const CacheConfig& config = layer.config();
  const int64_t rows = layer.heads().Hq_lc();
  if (config.pooling == Pooling::none) return {std::move(scores), {}, {}};
  PolicyScores result;
  std::vector<PoolWindow> window(static_cast<size_t>(rows), {-(config.kernel_size / 2), config.kernel_size / 2});
  PoolEdge edge = config.pooling == Pooling::max ? PoolEdge::lowest : PoolEdge::zero;
  if (config.pooling == Pooling::adaptive) {
    edge = PoolEdge::replicate;
    std::vector<int64_t> sums = layer.top_position_sums();
    for (int64_t h = 0; h < rows; ++h) {
      AdaptiveWindow adaptive = adaptive_window(sums.data() + h * config.window, config.window, layer.past_budget(),
                                                config.kernel_size, config.beta);
      window[h] = adaptive.window();
      result.kernel.push_back(adaptive.kernel);
      result.shift.push_back(adaptive.shift);
    }
  }
  Tensor all = layer.gather_past(scores);
  result.values = layer.new_rows(rows);
  pool_scores(layer.ctx(), layer.shard(), all.data<float>(), rows, edge, window, result.values.data<float>());
  return result;
}

}  // namespace restkv
