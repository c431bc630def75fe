// What a bench writes: JSON lines, and the table at its end. launch/README.md lists the members.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/bench/ceilings.h"
#include "launch/bench/links.h"
#include "launch/bench/measure.h"
#include "launch/bench/sweep.h"
#include "launch/plan/predict.h"
#include "launch/results/record.h"

namespace restkv {

/// What all points of a layout have in common.
struct BenchSetting {
  RunConfig config;  ///< as read
  ModelConfig model;
  Layout layout;
  Ceilings ceilings;            ///< of all ranks of the run
  Links links;                  ///< of the layout at hand
  std::string predicted_from;   ///< where the predictions come from; empty: there are none
  double load_s = 0.0;          ///< seconds until the weights of this layout were there
  int64_t weight_bytes = 0;     ///< over all ranks
  double step_weights = 0.0;    ///< bytes of the weights that one decode step reads, once over all ranks
  std::string device_name;      ///< "NVIDIA H200 (...)"
  std::string device_versions;  ///< of CUDA, its driver and libraries; empty on CPUs
};

/// A point's outcome. status: "ok"; "refused" for one that cannot run, with the reason; "failed" for an error.
struct BenchPoint {
  std::string status = "ok";
  std::string reason;
  RunConfig config;  ///< of the point (point_config)
  int64_t context = 0;
  int64_t batch = 1;
  Layout layout;
  int64_t planned_bytes = 0;  ///< of the rank that needs most (launch/plan)
  MemoryWork work;
  std::optional<Prediction> prediction;
  BenchResult result;  ///< with status ok
};

/// The first line of a run: program, libraries, device, ceilings, configuration.
std::string environment_line(const BenchSetting& setting, int64_t ranks);

/// Before the points of a layout of several ranks: how fast they reach each other.
std::string links_line(const BenchSetting& setting);

/// `all`: the points so far, against which this one is held (launch/bench/scaling.h).
std::string point_line(const BenchPoint& point, const BenchSetting& setting, std::span<const BenchPoint> all);

/// One line for the log.
std::string point_summary(const BenchPoint& point);

/// All points of a run under the ceilings, several lines; below them the measurements beside the predictions and the
/// speed-up over smaller layouts, when there are any.
std::string bench_table(const std::vector<BenchPoint>& points, const BenchSetting& setting);

}  // namespace restkv
