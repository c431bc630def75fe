// How many bytes the ranks of a run exchange, by the formulas of dist/README.md; a test holds them against a
// measured run.
#pragma once

#include <cstdint>

#include "launch/plan/memory_plan.h"

namespace restkv {

/// Bytes that all ranks together send. Of one layer: `prefill_layer`; evict / layers and reshard / layers with a
/// uniform budget.
struct TrafficPlan {
  int64_t prefill = 0;           ///< K/V gather and tensor-parallel sums
  int64_t prefill_layer = 0;     ///< the part of it that each layer sends
  int64_t evict = 0;             ///< the decision
  int64_t reshard = 0;           ///< kept rows on their way to the ranks that decode them
  int64_t decode_per_token = 0;  ///< one decode step
};

TrafficPlan plan_traffic(const PlanInput& input);

}  // namespace restkv
