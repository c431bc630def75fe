// Control: uniform random scores.
#include "kvcache/policies/policy.h"
#include "kvcache/scores/random_scores.h"

namespace restkv {
namespace {

class Random : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override {
    Tensor scores = layer.new_rows(layer.heads().Hkv_lc());
    random_scores(layer.ctx(), layer.heads(), layer.shard(), layer.config().seed, layer.layer().layer,
                  scores.data<float>());
    return {scores, {}, {}};
  }
};

}  // namespace

std::unique_ptr<Policy> make_random(const CacheConfig&) { return std::make_unique<Random>(); }

}  // namespace restkv
