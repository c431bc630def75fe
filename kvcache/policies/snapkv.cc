// SnapKV: the attention that a position gets from the window, summed over the window rows and pooled.
#include "kvcache/policies/policy.h"
#include "kvcache/scores/smoothing.h"

namespace restkv {
namespace {

class SnapKv : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override {
    return smooth_scores(layer, layer.attention(RowReduction::sum));
  }

  PolicyExchanges exchanges(const CacheConfig& config) const override {
    return {true, 0, false, config.pooling != Pooling::none};
  }
};

}  // namespace

std::unique_ptr<Policy> make_snapkv(const CacheConfig&) { return std::make_unique<SnapKv>(); }

}  // namespace restkv
