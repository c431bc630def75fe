#include "launch/bench/sweep.h"

#include <algorithm>
#include <charconv>

#include "dist/base/error.h"
#include "kvcache/policies/policy.h"

namespace restkv {
namespace {

/// "2x1" -> {2, 1}
BenchLayout parse_layout(const std::string& text, const std::string& file) {
  BenchLayout layout;
  const char* end = text.data() + text.size();
  auto [at, first] = std::from_chars(text.data(), end, layout.sequence);
  bool good = first == std::errc() && at != end && *at == 'x';
  if (good) {
    auto [stop, second] = std::from_chars(at + 1, end, layout.tensor);
    good = second == std::errc() && stop == end;
  }
  if (!good || layout.sequence < 1 || layout.tensor < 1)
    fail_input("{}: bench.layouts: found \"{}\", expected sequence x tensor, for example 2x1", file, text);
  return layout;
}

void check_ranks(const BenchLayout& layout, int64_t world_size, const std::string& file) {
  int64_t ranks = layout.sequence * layout.tensor;
  if (world_size > 0 && ranks > world_size)
    fail_input(
        "{}: bench.layouts: {}x{} is {} ranks, but the run has {}; expected mpirun -np {}, or layouts of at most {} "
        "ranks",
        file, layout.sequence, layout.tensor, ranks, world_size, ranks, world_size);
}

std::vector<BenchGroup> make_groups(const RunConfig& config) {
  std::vector<int64_t> batch = config.bench.batch;
  std::sort(batch.begin(), batch.end());
  batch.erase(std::unique(batch.begin(), batch.end()), batch.end());
  std::vector<BenchGroup> groups;
  for (const std::string& policy : config.bench.policies) {
    CacheConfig cache = cache_of_policy(config, policy);
    bool evicts = find_policy(policy).evicts;
    std::vector<Budget> budgets = evicts ? config.bench.budgets : std::vector<Budget>{cache.budget};
    for (const Budget& budget : budgets) {
      cache.budget = budget;
      try {
        cache.validate();
      } catch (const InputError& e) {
        fail_input("{}: bench, policy {}: {}", config.file, policy, e.what());
      }
      for (int64_t context : config.bench.context) groups.push_back({cache, context, batch});
    }
  }
  if (groups.empty()) fail_input("{}: bench.policies is empty; expected at least one policy", config.file);
  return groups;
}

}  // namespace

CacheConfig cache_of_policy(const RunConfig& config, const std::string& name) {
  const PolicyEntry* entry = nullptr;
  try {
    entry = &find_policy(name);
  } catch (const InputError& e) {
    fail_input("{}: bench.policies: {}", config.file, e.what());
  }
  CacheConfig cache = config.cache;
  cache.policy = name;
  const auto& allowed = entry->poolings;
  if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), cache.pooling) == allowed.end())
    cache.pooling = allowed.front();
  return cache;
}

std::vector<BenchLayout> make_sweep(const RunConfig& config, int64_t world_size) {
  std::vector<BenchLayout> layouts;
  for (const std::string& text : config.bench.layouts) layouts.push_back(parse_layout(text, config.file));
  if (layouts.empty()) {
    RunConfig resolved = config;
    resolve_layout(resolved, world_size > 0 ? world_size : std::max(config.world_size(), config.parallel.tensor));
    layouts.push_back({resolved.parallel.sequence, resolved.parallel.tensor, {}});
  }
  for (BenchLayout& layout : layouts) {
    check_ranks(layout, world_size, config.file);
    layout.groups = make_groups(config);
  }
  // Small layouts first: the others are held against them.
  std::stable_sort(layouts.begin(), layouts.end(),
                   [](const BenchLayout& a, const BenchLayout& b) { return a.ranks() < b.ranks(); });
  return layouts;
}

RunConfig point_config(const RunConfig& config, const BenchLayout& layout, const BenchGroup& group) {
  RunConfig point = config;
  point.parallel.sequence = layout.sequence;
  point.parallel.tensor = layout.tensor;
  point.cache = group.cache;
  return point;
}

int64_t decode_steps(const RunConfig& config, const BenchGroup& group) {
  return (config.bench.warmup + config.bench.new_tokens + kTimedSteps) * static_cast<int64_t>(group.batch.size());
}

}  // namespace restkv
