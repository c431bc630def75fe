// The last B positions and nothing else.
#include "kvcache/policies/policy.h"
#include "kvcache/scores/position_scores.h"

namespace restkv {
namespace {

class SlidingWindow : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override {
    Tensor scores = layer.new_rows(1);
    position_scores(layer.ctx(), layer.shard(), 0, scores.data<float>());
    return {scores, {}, {}};
  }
};

}  // namespace

std::unique_ptr<Policy> make_sliding_window(const CacheConfig&) { return std::make_unique<SlidingWindow>(); }

}  // namespace restkv
