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
    const int64_t after_rows = config.reconstruction ? 1 : 0;
    return {true, config.mode == ScoreMode::after ? after_rows : config.window, config.pooling == Pooling::adaptive,
            config.pooling != Pooling::none};
  }

  bool uses_output_factors(const CacheConfig& config) const override { return config.use_wo && config.reconstruction; }

 private:
  static RowReduction temporal(const CacheConfig& config) {
    switch (config.temporal) {
      case TemporalSmoothing::ema: return RowReduction::ema;
      case TemporalSmoothing::mean: return RowReduction::mean;
      case TemporalSmoothing::inverse_ema: return RowReduction::inverse_ema;
      case TemporalSmoothing::last: break;
    }
    return RowReduction::last;
  }

  static const float* factors(LayerStatistics& layer) { return layer.config().use_wo ? layer.layer().r : nullptr; }

  Tensor after(LayerStatistics& layer) const {
    const CacheConfig& config = layer.config();
    Tensor a = layer.attention(temporal(config), config.alpha, config.pooling == Pooling::adaptive);
    if (!config.reconstruction) return a;
    Tensor o = layer.past_outputs(a);
    Tensor s = layer.new_rows(layer.heads().Hq_lc());
    reconstruction_after(layer.ctx(), layer.heads(), layer.shard(), a.data<float>(), o.data<float>(), layer.layer().v,
                         factors(layer), config.tau, s.data<float>());
    return s;
  }

  Tensor before(LayerStatistics& layer) const {
    const CacheConfig& config = layer.config();
    if (config.pooling == Pooling::adaptive) layer.begin_top_sets();
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
