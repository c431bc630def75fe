// Budgets per head: cases by hand, and what an eviction keeps against a sort of all scores of the layer.
#include "kvcache/head_budgets.h"

#include <numeric>
#include <random>

#include "kvcache/allocation.h"
#include "tests/kvcache/random_case.h"

namespace restkv::testing {
namespace {

using Budgets = std::vector<int64_t>;

TEST(DealBudget, SmallCasesByHand) {
  EXPECT_EQ(deal_budget({{9, 0}, {1, 0}}, 5, 0.0), (Budgets{9, 1}));
  EXPECT_EQ(deal_budget({{9, 0}, {1, 0}}, 5, 0.2), (Budgets{8, 2}));  // 7.2 + 1 and 0.8 + 1: 0.8 has the larger rest
  EXPECT_EQ(deal_budget({{9, 0}, {1, 0}}, 5, 1.0), (Budgets{5, 5}));
  EXPECT_EQ(deal_budget({{10, 0}, {0, 0}}, 5, 0.2), (Budgets{9, 1}));
  EXPECT_EQ(deal_budget({{10, 0}, {0, 0}, {2, 0}}, 4, 0.5), (Budgets{7, 2, 3}));
  EXPECT_EQ(deal_budget({{3, 0}, {2, 0}, {1, 0}}, 2, 0.5), (Budgets{3, 2, 1}));  // 2.5, 2, 1.5: the first goes up
}

TEST(DealBudget, TiesAtTheCutAreDealtInTurns) {
  EXPECT_EQ(deal_budget({{0, 100}, {0, 100}, {0, 100}}, 5, 0.0), (Budgets{5, 5, 5}));
  EXPECT_EQ(deal_budget({{2, 100}, {0, 1}, {0, 100}}, 4, 0.0), (Budgets{7, 1, 4}));  // 10 ties: 1 each, then 4, 4; one
  EXPECT_EQ(deal_budget({{0, 1}, {0, 9}}, 3, 0.0), (Budgets{1, 5}));
  EXPECT_EQ(deal_budget({{1, 0}, {1, 2}, {1, 2}}, 2, 0.0), (Budgets{1, 3, 2}));
}

TEST(DealBudget, SumsToTheUniformBudget) {
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    const int64_t heads = 1 + static_cast<int64_t>(random() % 40), mean = 1 + static_cast<int64_t>(random() % 300);
    // Any counts with a cut through them: above at most heads * mean, with the ties at least as many.
    std::vector<CutCounts> counts(static_cast<size_t>(heads));
    int64_t room = heads * mean;
    for (CutCounts& c : counts) {
      c.above = static_cast<int32_t>(random() % (static_cast<uint64_t>(room) + 1));
      room -= c.above;
      c.equal = static_cast<int32_t>(random() % 5 == 0 ? 0 : random() % 500);
    }
    counts[random() % counts.size()].equal += static_cast<int32_t>(room);
    const double floor = static_cast<double>(random() % 1001) / 1000.0;
    const Budgets budgets = deal_budget(counts, mean, floor);
    EXPECT_EQ(std::accumulate(budgets.begin(), budgets.end(), int64_t{0}), heads * mean);
    const auto least = static_cast<int64_t>(floor * static_cast<double>(mean) - 1e-9);
    for (int64_t h = 0; h < heads; ++h) {
      EXPECT_GE(budgets[h], least);
      EXPECT_LE(budgets[h], std::max<int64_t>(mean, counts[h].above + counts[h].equal));
    }
  }
}

// From the definition: all scores of the layer sorted together, then every head's own best.
void expect_defined(const EvictionCase& c) {
  auto sequence = make_self_communicator("sequence"), tensor = make_self_communicator("tensor");
  const RankResult result = evict_case(c, *sequence, *tensor);
  std::vector<float> all;
  for (const auto& row : result.scores) all.insert(all.end(), row.begin(), row.end());
  const int64_t rows = static_cast<int64_t>(result.scores.size());
  const int64_t mean = layer_budget(c.config, c.L, c.layer, c.layers) - c.config.window;
  std::sort(all.begin(), all.end(), std::greater<>());
  const float cut = all[static_cast<size_t>(rows * mean - 1)];
  std::vector<CutCounts> counts;
  for (const auto& row : result.scores)
    counts.push_back({static_cast<int32_t>(std::count_if(row.begin(), row.end(), [&](float x) { return x > cut; })),
                      static_cast<int32_t>(std::count(row.begin(), row.end(), cut))});
  const Budgets budgets = deal_budget(counts, mean, c.config.ada_floor);
  const size_t group = result.kept.size() / result.scores.size();
  for (size_t h = 0; h < result.kept.size(); ++h) {
    const std::vector<float>& scores = result.scores[h / group];
    std::vector<int64_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
    order.resize(static_cast<size_t>(budgets[h / group]));
    for (int64_t p = c.P(); p < c.L; ++p) order.push_back(p);
    std::sort(order.begin(), order.end());
    EXPECT_EQ(result.kept[h], order) << c.name << " head " << h;
  }
}

TEST(HeadBudgets, EveryScoringPolicy) {
  uint32_t seed = 60;
  int checked = 0;
  for (const auto& [name, shape] : case_shapes())
    for (CacheConfig config : case_configs()) {
      const std::string& policy = config.policy;
      if (policy == "tova" || policy == "sliding_window" || policy == "streaming_llm") continue;
      if (config.pooling == Pooling::adaptive && config.use_wo) continue;  // the slowest; others do it as well
      if (config.allocation == Allocation::uniform) config.allocation = Allocation::ada;
      if (config.allocation == Allocation::pyramid) config.allocation = Allocation::ada_pyramid;
      expect_defined(random_case(name + ", " + policy, shape, config, seed++));
      ++checked;
    }
  EXPECT_GT(checked, 60);
}

}  // namespace
}  // namespace restkv::testing
