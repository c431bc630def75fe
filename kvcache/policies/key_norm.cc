// Key norm (EMNLP 2024): the shorter a key, the longer it is kept. Reads no queries.
#include "kvcache/policies/policy.h"
#include "kvcache/scores/key_norms.h"

namespace restkv {
namespace {

class KeyNorm : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override {
    Tensor scores = layer.new_rows(layer.heads().Hkv_lc());
    key_norms(layer.ctx(), layer.heads(), layer.shard(), layer.layer().k, scores.data<float>());
    return {scores, {}, {}};
  }
};

}  // namespace

std::unique_ptr<Policy> make_key_norm(const CacheConfig&) { return std::make_unique<KeyNorm>(); }

}  // namespace restkv
