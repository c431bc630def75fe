// ReST-KV (ICLR 2026): output reconstruction, temporal smoothing, adaptive spatial smoothing.
#include "kvcache/policies/policy.h"
#include "kvcache/scores/reconstruction.h"
#include "kvcache/scores/smoothing.h"

namespace restkv {
namespace {

class RestKv : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override {
    return smooth_scores(layer, layer.config().mode == ScoreMode::after ? after(layer) : before(layer));
  }

  PolicyExchanges exchanges(const CacheConfig& config) const override {
    return {true, config.mode == ScoreMode::after ? 1 : config.window, config.pooling == Pooling::adaptive,
            config.pooling != Pooling::none};
  }

 private:
  static RowReduction temporal(const CacheConfig& config) {
    return config.temporal == TemporalSmoothing::ema ? RowReduction::ema : RowReduction::mean;
  }

  static const float* factors(LayerStatistics& layer) { return layer.config().use_wo ? layer.layer().r : nullptr; }

  Tensor after(LayerStatistics& layer) const {
    const CacheConfig& config = layer.config();
    Tensor a = layer.attention(temporal(config), config.alpha, config.pooling == Pooling::adaptive);
    Tensor o = layer.past_outputs(a);
    Tensor s = layer.new_rows(layer.heads().Hq_lc());
    reconstruction_after(layer.ctx(), layer.heads(), layer.shard(), a.data<float>(), o.data<float>(), layer.layer().v,
                         factors(layer), config.tau, s.data<float>());
    return s;
  }

  Tensor before(LayerStatistics& layer) const {
    const CacheConfig& config = layer.config();
    Tensor s = layer.new_rows(layer.heads().Hq_lc());
    reconstruction_before(layer.ctx(), layer.heads(), layer.shard(), layer.logits(), layer.softmax(),
                          layer.window_outputs().data<float>(), layer.layer().v, factors(layer),
                          {temporal(config), config.alpha, config.normalize}, s.data<float>());
    return s;
  }
};

}  // namespace

std::unique_ptr<Policy> make_restkv(const CacheConfig&) { return std::make_unique<RestKv>(); }

}  // namespace restkv
