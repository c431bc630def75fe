// The points of a sweep, in the order in which they are measured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/config/run_config.h"

namespace restkv {

/// Points that share their prefills: they differ in the batch alone.
struct BenchGroup {
  CacheConfig cache;           ///< with the group's policy and budget
  int64_t context = 0;         ///< prompt tokens
  std::vector<int64_t> batch;  ///< ascending, distinct
};

/// Groups that share their weights.
struct BenchLayout {
  int64_t sequence = 1, tensor = 1;
  int64_t ranks() const { return sequence * tensor; }
  std::vector<BenchGroup> groups;  ///< by policy, budget, then context, as the configuration lists them
};

/// The layouts of bench.layouts, fewest ranks first, or the one of `parallel`. Throws InputError for a text that is
/// none, and with `world_size` above 0 for one of more ranks.
std::vector<BenchLayout> make_sweep(const RunConfig& config, int64_t world_size);

/// `cache` under one of bench.policies. One `pooling` cannot serve all policies: one that does not have it takes the
/// first of its own. Throws InputError for a policy that there is not.
CacheConfig cache_of_policy(const RunConfig& config, const std::string& name);

/// The configuration of one point: its layout, policy and budget in the places of the sweep's.
RunConfig point_config(const RunConfig& config, const BenchLayout& layout, const BenchGroup& group);

/// Steps per point whose parts are timed, after those that count.
inline constexpr int64_t kTimedSteps = 3;

/// Decode steps that a sequence of this group may take: each batch warms up and measures.
int64_t decode_steps(const RunConfig& config, const BenchGroup& group);

}  // namespace restkv
