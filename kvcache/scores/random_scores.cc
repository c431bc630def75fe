#include "kvcache/scores/random_scores.h"

namespace restkv {

void random_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, uint64_t seed, int64_t layer,
                   float* scores) {
  if (ctx.device() == Device::gpu) return gpu::random_scores(ctx, heads, shard, seed, layer, scores);
  cpu::random_scores(ctx, heads, shard, seed, layer, scores);
}

}  // namespace restkv
