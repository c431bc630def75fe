// What more ranks bring: every point against the smallest layout that did the same work, or as much for each rank.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "launch/bench/record.h"

namespace restkv {

/// Speed-up: the base's time over this point's. Efficiency: the speed-up over the ratio of the ranks.
struct Scaling {
  std::string base;  ///< layout of the base: "1x1"
  int64_t base_ranks = 1;
  double prefill_speedup = 1.0, prefill_efficiency = 1.0;
  double decode_speedup = 1.0, decode_efficiency = 1.0;
};

/// Strong scaling: against the layout of fewest ranks (of several the fastest prefill) among the points of the same
/// policy, budget, context and batch that succeeded. None when no layout of fewer ranks did.
std::optional<Scaling> strong_scaling(const BenchPoint& point, std::span<const BenchPoint> all);

/// Weak scaling: against the smallest layout at a context that is shorter in the ratio of the ranks. Attention grows
/// with the square of the context, so what is compared is the work: FLOP/s of the prefill per rank.
struct WeakScaling {
  std::string base;
  int64_t base_context = 0;
  double efficiency = 1.0;
};
std::optional<WeakScaling> weak_scaling(const BenchPoint& point, std::span<const BenchPoint> all,
                                        const ModelConfig& model);

}  // namespace restkv
