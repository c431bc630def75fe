// Scores that say what a ladder keeps of a prompt.
#pragma once

#include "dist/base/context.h"
#include "kvcache/ladder.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// scores [stride] (f32): 1 at the local past positions that the cuts keep, 0 at the others; other elements are left as
/// they are. Slot i of the prompt is position i.
void ladder_scores(Context& ctx, const LocalShard& shard, const LadderCuts& cuts, float* scores);

namespace gpu {  // ladder_scores_gpu.cu
void ladder_scores(Context& ctx, const LocalShard& shard, const LadderCuts& cuts, float* scores);
}

}  // namespace restkv
