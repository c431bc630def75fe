// E4: smoothing of the scores of a layer along the positions, as CacheConfig::pooling asks for it.
#pragma once

#include "kvcache/policies/policy.h"

namespace restkv {

/// scores [Hq_lc, stride] -> smoothed scores of the same shape; kernel and shift with Pooling::adaptive. Collective.
PolicyScores smooth_scores(LayerStatistics& layer, Tensor scores);

/// How far from a position the smoothing of `config` may read, for a prompt of L positions. With a pooling.
int64_t pooling_reach(const CacheConfig& config, int64_t L);

}  // namespace restkv
