// StreamingLLM (ICLR 2024): the first positions, to which attention sinks, and the most recent ones.
#include <algorithm>

#include "kvcache/policies/policy.h"
#include "kvcache/scores/position_scores.h"

namespace restkv {
namespace {

class StreamingLlm : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override {
    Tensor scores = layer.new_rows(1);
    position_scores(layer.ctx(), layer.shard(), layer.config().sinks, scores.data<float>());
    return {scores, {}, {}};
  }

  int64_t least_past(const CacheConfig& config) const override { return std::max<int64_t>(1, config.sinks); }
};

}  // namespace

std::unique_ptr<Policy> make_streaming_llm(const CacheConfig&) { return std::make_unique<StreamingLlm>(); }

}  // namespace restkv
