// LaCache (ICML 2025): by position alone, other tokens in every layer, as kvcache/ladder.h tells. The same for all
// heads.
#include "dist/base/error.h"
#include "kvcache/policies/policy.h"
#include "kvcache/scores/ladder_scores.h"

namespace restkv {
namespace {

class LaCache : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override {
    Tensor scores = layer.new_rows(1);
    const int64_t budget = layer.past_budget() + layer.shard().W;
    ladder_scores(layer.ctx(), layer.shard(), cuts(layer.config(), layer.layer(), budget), scores.data<float>());
    return {scores, {}, {}};
  }

  // What the ladder drops is not replaced by anything: it may keep less than the budget.
  int64_t past_tokens(const CacheConfig& config, const LayerKv& layer, int64_t past_budget) const override {
    Ladder ladder(ladder_shape(config, layer.layers, past_budget + config.window));
    return ladder.compact(layer.partition->length()).length - config.window;
  }

  int64_t least_past(const CacheConfig& config) const override { return config.sinks + 1; }

 private:
  static LadderCuts cuts(const CacheConfig& config, const LayerKv& layer, int64_t budget) {
    Ladder ladder(ladder_shape(config, layer.layers, budget));
    return ladder.compact(layer.partition->length()).of_layer(ladder.shape(), layer.layer);
  }
};

}  // namespace

LadderShape ladder_shape(const CacheConfig& config, int64_t layers, int64_t budget) {
  if (layers < 2) fail_input("cache.policy: found lacache, allowed with {} layers: others; ladders have steps", layers);
  const int64_t span = config.ladder_span > 0 ? config.ladder_span : layers / 2;
  return {layers, budget, config.sinks, config.window, span, config.ladder_overlap, config.ladder_offsets};
}

std::unique_ptr<Policy> make_lacache(const CacheConfig&) { return std::make_unique<LaCache>(); }

}  // namespace restkv
