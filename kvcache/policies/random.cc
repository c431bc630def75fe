// Control: uniform random scores. The generator counts on (seed, layer, KV head, global position), so every layout
// keeps the same set.
#include "dist/base/mix.h"
#include "kvcache/policies/policy.h"

namespace restkv {
namespace {

class Random : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override {
    const HeadLayout& heads = layer.heads();
    const LocalShard& shard = layer.shard();
    Tensor scores = layer.new_rows(heads.Hkv_lc());
    layer.ctx().parallel_for(heads.Hkv_lc(), [&](int64_t g) {
      uint64_t key = mix64(layer.config().seed);
      key = mix64(key ^ static_cast<uint64_t>(layer.layer().layer));
      key = mix64(key ^ static_cast<uint64_t>(heads.local.kv.begin + g));
      float* row = scores.data<float>() + g * shard.stride;
      for (const Segment& s : shard.past)
        for (int64_t i = 0; i < s.count; ++i)
          // The upper 24 bits: what a float holds exactly.
          row[s.local + i] = static_cast<float>(mix64(key ^ static_cast<uint64_t>(s.global + i)) >> 40) * 0x1p-24f;
    });
    return {scores, {}, {}};
  }
};

}  // namespace

std::unique_ptr<Policy> make_random(const CacheConfig&) { return std::make_unique<Random>(); }

}  // namespace restkv
