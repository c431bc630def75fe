#include "kvcache/scores/ladder_scores.h"

namespace restkv {

void ladder_scores(Context& ctx, const LocalShard& shard, const LadderCuts& cuts, float* scores) {
  if (ctx.device() == Device::gpu) return gpu::ladder_scores(ctx, shard, cuts, scores);
  for (const Segment& s : shard.past)
    for (int64_t i = 0; i < s.count; ++i) scores[s.local + i] = cuts.place(s.global + i) >= 0 ? 1.0f : 0.0f;
}

}  // namespace restkv
