// The promise of kvcache/: the same Q, K and V give bit-identical scores, kept sets, kernels and shifts on every
// sequence x tensor layout and number of threads. Every rank compares its own part with the result of one rank.
#include <iostream>
#include <set>

#include "kvcache/allocation.h"
#include "tests/kvcache/layout_result.h"
#include "tests/kvcache/random_case.h"
#include "tests/mpi_world.h"

namespace restkv::testing {
namespace {

RankResult alone(const EvictionCase& c, int threads = 1) {
  auto sequence = make_self_communicator("sequence"), tensor = make_self_communicator("tensor");
  return evict_case(c, *sequence, *tensor, threads);
}

TEST(EvictionLayouts, SameBitsOnEveryGrid) {
  int compared = 0, tied = 0;
  uint32_t seed = 1;
  std::vector<EvictionCase> cases;
  for (const auto& [name, shape] : case_shapes())
    for (const CacheConfig& config : case_configs())
      cases.push_back(random_case(name + ", " + config.policy, shape, config, seed++));
  for (const auto& [name, shape] : case_shapes())
    for (const CacheConfig& config : lacache_configs())
      if (EvictionCase c = random_case(name + ", lacache", shape, config, seed++); ladder_fits(c)) cases.push_back(c);
  for (const auto& [name, shape] : case_shapes())
    for (const CacheConfig& config : h2o_configs())
      if (shape.L <= 700) cases.push_back(random_case(name + ", h2o", shape, config, seed++));
  std::vector<RankResult> expected;
  for (const EvictionCase& c : cases) expected.push_back(alone(c));
  for (auto [sequence_size, tensor_size] : all_layouts()) {
    ProcessGrid grid = make_grid(sequence_size, tensor_size);
    for (size_t i = 0; i < cases.size(); ++i) {
      RankResult part = evict_case(cases[i], grid.sequence(), grid.tensor());
      expect_part_of(cases[i], expected[i], part, grid.sequence_rank(), sequence_size);
      ++compared;
      tied += part.tied_rows > 0;
    }
  }
  EXPECT_GE(compared, 144);
  EXPECT_GT(tied, 10);  // the tie passes did run
  if (mpi_runtime().rank() == 0) std::cout << compared << " cases x layouts, " << tied << " with ties at a cut\n";
}

TEST(EvictionLayouts, SameBitsWithTwoThreads) {
  uint32_t seed = 1000;
  for (const auto& [name, shape] : case_shapes())
    for (const CacheConfig& config : case_configs()) {
      // A sample: waiting threads of many ranks on few cores crawl.
      if (seed++ % (mpi_runtime().size() > 1 ? 23 : 5) != 0) continue;
      EvictionCase c = random_case(name + ", " + config.policy, shape, config, seed);
      expect_part_of(c, alone(c, 1), alone(c, 2), 0, 1);
    }
}

TEST(EvictionLayouts, KeepsTheBudgetAndTheWindow) {
  if (mpi_runtime().size() > 1) GTEST_SKIP() << "one rank shows it";
  for (const auto& [name, shape] : case_shapes())
    for (const CacheConfig& config : case_configs()) {
      EvictionCase c = random_case(name, shape, config, 5);
      RankResult result = alone(c);
      ASSERT_EQ(result.kept.size(), static_cast<size_t>(config.granularity == Granularity::kv_head ? c.Hkv : c.Hq));
      for (const auto& scores : result.scores)
        for (float score : scores) ASSERT_TRUE(std::isfinite(score)) << name << ", " << config.policy;
      const int64_t budget = layer_budget(c.config, c.L, c.layer, c.layers);
      int64_t sum = 0;
      for (const auto& kept : result.kept) {
        sum += static_cast<int64_t>(kept.size());
        if (!deals_to_heads(config.allocation)) {
          EXPECT_EQ(static_cast<int64_t>(kept.size()), budget) << name;
        }
        EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end())) << name;
        EXPECT_EQ(std::set<int64_t>(kept.begin(), kept.end()).size(), kept.size()) << name;
        for (int64_t w = 0; w < shape.W; ++w)
          EXPECT_EQ(kept[kept.size() - static_cast<size_t>(shape.W - w)], c.P() + w);
      }
      EXPECT_EQ(sum, budget * static_cast<int64_t>(result.kept.size())) << name << ", " << config.policy;
    }
}

}  // namespace
}  // namespace restkv::testing
