#include "kvcache/scores/random_scores.h"

namespace restkv::cpu {

void random_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, uint64_t seed, int64_t layer,
                   float* scores) {
  ctx.parallel_for(heads.Hkv_lc(), [&](int64_t g) {
    const uint64_t key = random_scores_key(seed, layer, heads.local.kv.begin + g);
    float* row = scores + g * shard.stride;
    for (const Segment& s : shard.past)
      for (int64_t i = 0; i < s.count; ++i)
        // The upper 24 bits: what a float holds exactly.
        row[s.local + i] = static_cast<float>(mix64(key ^ static_cast<uint64_t>(s.global + i)) >> 40) * 0x1p-24f;
  });
}

}  // namespace restkv::cpu
