// What the eviction of one layer costs, following the steps of kvcache/README.md (E1 to E6).
#pragma once

#include <cstdint>

#include "launch/plan/memory_plan.h"

namespace restkv {

/// Bytes of temporary arrays on a rank: window logits, scores, histograms of the selection,
/// and the rows on their way to the ranks that decode them.
int64_t eviction_scratch_bytes(const PlanInput& input, const ShardPlan& shard, int rank);

/// Bytes that all ranks together send for the decision of one layer. Ties at a cut cost a little more.
int64_t eviction_sent_bytes(const PlanInput& input);

/// Bytes that all ranks together send to bring one layer's rows to their decoding ranks; 0 when they stay.
int64_t reshard_sent_bytes(const PlanInput& input);

}  // namespace restkv
