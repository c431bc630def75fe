// The times of `restkv plan`: predictions as text and as JSON lines.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/plan/predict.h"

namespace restkv {

/// What times are predicted from: plan.ceilings, or on GPUs a known one. None on CPUs without the file.
std::optional<Machine> plan_machine(const RunConfig& config, Device device);

/// One point with its predictions; decode in both modes.
struct PlannedPoint {
  PlanInput input;
  int64_t memory = 0;   ///< bytes of the rank that needs most
  std::string refusal;  ///< why it cannot run; empty when it can
  Prediction tensor, sequence;
};
PlannedPoint make_planned_point(const PlanInput& input, const Machine& machine);

/// Lines under the plan of one run: where the seconds go.
std::string describe_times(const PlannedPoint& point, const Machine& machine);

/// The table of a sweep, with speed-up and efficiency over the smallest layout of the same work. What it says of other
/// machines than the measured one is marked as projection.
std::string times_table(const std::vector<PlannedPoint>& points, const Machine& machine);

/// One JSON line, kind "projection", with the members of a bench's point that launch/plot.py reads.
std::string projection_line(const PlannedPoint& point, const Machine& machine);

}  // namespace restkv
