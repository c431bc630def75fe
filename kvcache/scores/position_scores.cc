#include "kvcache/scores/position_scores.h"

#include "dist/base/error.h"

namespace restkv {

void position_scores(Context& ctx, const LocalShard& shard, int64_t sinks, float* scores) {
  RESTKV_CHECK(shard.L <= kMostScoredPositions, "scores by position for {} positions, at most {}", shard.L,
               kMostScoredPositions);
  if (ctx.device() == Device::gpu) return gpu::position_scores(ctx, shard, sinks, scores);
  for (const Segment& s : shard.past)
    for (int64_t i = 0; i < s.count; ++i) scores[s.local + i] = position_score(s.global + i, shard.L, sinks);
}

}  // namespace restkv
