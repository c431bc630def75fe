#include "kvcache/config.h"

#include <algorithm>
#include <cmath>

#include "dist/base/error.h"
#include "kvcache/policies/policy.h"

namespace restkv {
namespace {

std::string_view name_of(Pooling pooling) {
  switch (pooling) {
    case Pooling::adaptive: return "adaptive";
    case Pooling::average: return "average";
    case Pooling::max: return "max";
    case Pooling::none: return "none";
  }
  return "?";
}

void check_pooling(const CacheConfig& config, const PolicyEntry& policy) {
  if (policy.poolings.empty()) return;
  std::string allowed;
  for (Pooling p : policy.poolings) allowed += (allowed.empty() ? "" : ", ") + std::string(name_of(p));
  if (std::find(policy.poolings.begin(), policy.poolings.end(), config.pooling) == policy.poolings.end())
    fail_input("cache.pooling: found {}, allowed with policy {}: {}", name_of(config.pooling), policy.name, allowed);
  if (config.pooling == Pooling::none) return;
  if (config.kernel_size < 1 || config.kernel_size % 2 == 0)
    fail_input("cache.kernel_size: found {}, allowed: odd numbers from 1 up", config.kernel_size);
  if (config.pooling == Pooling::adaptive) {
    if (config.window < 2)
      fail_input("cache.window: found {}, allowed with adaptive pooling: at least 2 (the drift compares its halves)",
                 config.window);
    if (!(config.beta > 0.0) || !std::isfinite(config.beta))
      fail_input("cache.beta: found {}, allowed: numbers above 0", config.beta);
  }
}

void check_allocation(const CacheConfig& config, const PolicyEntry& policy) {
  if (policy.name == "lacache" && config.allocation != Allocation::uniform)
    fail_input("cache.allocation: found another, allowed with policy lacache, whose layers share a ladder: uniform");
  if (!deals_to_heads(config.allocation)) return;
  if (policy.unit == ScoreUnit::layer || policy.unit == ScoreUnit::layer_mean)
    fail_input("cache.allocation: found {}, allowed with policy {}, which keeps the same for all heads of a layer: {}",
               config.allocation == Allocation::ada ? "ada" : "ada_pyramid", policy.name, "uniform, pyramid");
  if (!(config.ada_floor >= 0.0 && config.ada_floor <= 1.0))
    fail_input("cache.ada_floor: found {}, allowed: 0 to 1", config.ada_floor);
}

void check_reconstruction(const CacheConfig& config) {
  const bool averages = config.temporal == TemporalSmoothing::ema || config.temporal == TemporalSmoothing::inverse_ema;
  if (averages && !(config.alpha > 0.0 && config.alpha <= 1.0))
    fail_input("cache.alpha: found {}, allowed: above 0, at most 1", config.alpha);
  if (!(config.tau >= 0.0) || !std::isfinite(config.tau))
    fail_input("cache.tau: found {}, allowed: numbers from 0 up", config.tau);
  if (config.mode == ScoreMode::before && config.tau != 1.0)
    fail_input("cache.tau: found {}, allowed with mode before: 1 (only mode after raises the norm to a power)",
               config.tau);
  if (config.mode == ScoreMode::after && config.normalize)
    fail_input("cache.normalize: found true, allowed with mode after: false (only mode before normalises)");
  if (config.mode == ScoreMode::after) return;
  if (!config.reconstruction)
    fail_input("cache.reconstruction: found false, allowed with mode before: true (mode after scores by attention)");
  if (config.temporal == TemporalSmoothing::inverse_ema || config.temporal == TemporalSmoothing::last)
    fail_input("cache.temporal: found {}, allowed with mode before: ema, mean",
               config.temporal == TemporalSmoothing::last ? "last" : "inverse_ema");
}

}  // namespace

int64_t Budget::resolve(int64_t L) const {
  if (fraction <= 0.0) return tokens;
  // A hair below the product: 0.1 * 30 is 3, although the nearest double to 0.1 lies above it.
  return static_cast<int64_t>(std::ceil(fraction * static_cast<double>(L) - 1e-9));
}

bool CacheConfig::re_indexes() const {
  return positions == Positions::automatic ? find_policy(policy).cache_positions : positions == Positions::cache;
}

int64_t CacheConfig::least_budget() const {
  const PolicyEntry& entry = find_policy(policy);
  return window + (entry.evicts ? entry.make(*this)->least_past(*this) : 1);
}

std::string CacheConfig::describe_least_budget() const {
  const int64_t more = least_budget() - window;
  return fmt::format("{} (the window of {} and {} more)", least_budget(), window,
                     more == 1 ? "one" : std::to_string(more));
}

void CacheConfig::validate() const {
  const PolicyEntry& entry = find_policy(policy);
  if (!entry.evicts) return;
  if (window < 1) fail_input("cache.window: found {}, allowed: at least 1", window);
  if (!(budget.fraction >= 0.0 && budget.fraction <= 1.0))
    fail_input("cache.budget: found the fraction {}, allowed: above 0, at most 1", budget.fraction);
  if (sinks < 0) fail_input("cache.sinks: found {}, allowed: numbers from 0 up", sinks);
  if (budget.fraction == 0.0 && budget.tokens < least_budget())
    fail_input("cache.budget: found {} tokens, allowed: at least {}", budget.tokens, describe_least_budget());
  if (ladder_span < 0) fail_input("cache.ladder_span: found {}, allowed: numbers from 0 up", ladder_span);
  if (ladder_overlap < 0) fail_input("cache.ladder_overlap: found {}, allowed: numbers from 0 up", ladder_overlap);
  if (decode.every < 0) fail_input("decode.every: found {}, allowed: numbers from 0 up", decode.every);
  check_allocation(*this, entry);
  check_pooling(*this, entry);
  if (entry.needs_output_factors) check_reconstruction(*this);
}

}  // namespace restkv
