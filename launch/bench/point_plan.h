// Whether a point of a sweep can run, from shapes alone: what `restkv bench` asks before it measures, and what
// `restkv plan` prints for a model with random weights.
#pragma once

#include <string>

#include "launch/bench/sweep.h"
#include "launch/plan/memory_plan.h"
#include "model/checkpoint.h"

namespace restkv {

/// Random weights were trained for no length, so a sweep beyond the shape's positions is as good as a shorter one:
/// raises `model`'s positions to what the sweep needs. Returns whether it had to.
bool raise_positions(const RunConfig& config, const std::vector<BenchLayout>& sweep, ModelConfig* model);

/// What the plans of this point depend on. `point`: point_config() of its layout and group.
PlanInput point_input(const Checkpoint& checkpoint, const RunConfig& point, const BenchGroup& group, int64_t batch,
                      DecodeMode decode, Device device);

/// Why the point cannot run (positions, budget, memory); empty when it can. `available`: bytes, 0 when unknown.
std::string refusal_of(const PlanInput& input, const MemoryPlan& plan, int ranks_sharing, int64_t available);

}  // namespace restkv
