// Scores that follow from a position alone: some positions first, then the most recent ones.
#pragma once

#include <cstdint>

#include "dist/base/context.h"
#include "dist/base/mix.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// Prompts up to this length have distinct scores: a float holds integers up to 2^24.
inline constexpr int64_t kMostScoredPositions = int64_t{1} << 24;

/// p for the first `sinks` positions, p - L for the others: the first ones are kept before all others, and of these
/// the later before the earlier. No two positions have the same score.
RESTKV_HOST_DEVICE constexpr float position_score(int64_t p, int64_t L, int64_t sinks) {
  return static_cast<float>(p < sinks ? p : p - L);
}

/// scores [stride] (f32): position_score() at the local past positions; other elements are left as they are.
/// Precondition: L <= kMostScoredPositions.
void position_scores(Context& ctx, const LocalShard& shard, int64_t sinks, float* scores);

namespace gpu {  // position_scores_gpu.cu
void position_scores(Context& ctx, const LocalShard& shard, int64_t sinks, float* scores);
}

}  // namespace restkv
