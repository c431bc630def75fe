// Budgets per layer: against the published rule where its step is whole, their sum everywhere, and what is kept.
#include "kvcache/allocation.h"

#include "tests/kvcache/random_case.h"

namespace restkv::testing {
namespace {

CacheConfig pyramid(int64_t B, int64_t W) {
  CacheConfig config;
  config.allocation = Allocation::pyramid;
  config.budget.tokens = B;
  config.window = W;
  return config;
}

std::vector<int64_t> past_budgets(const CacheConfig& config, int64_t L, int64_t layers) {
  std::vector<int64_t> result;
  for (int64_t layer = 0; layer < layers; ++layer)
    result.push_back(layer_budget(config, L, layer, layers) - config.window);
  return result;
}

TEST(Allocation, SmallCasesByHand) {
  using Budgets = std::vector<int64_t>;
  EXPECT_EQ(past_budgets(pyramid(70, 10), 1000, 4), (Budgets{117, 79, 41, 3}));      // lo 3, hi 117, step 38
  EXPECT_EQ(past_budgets(pyramid(70, 10), 110, 5), (Budgets{100, 80, 60, 40, 20}));  // no more than the past of 100
  EXPECT_EQ(past_budgets(pyramid(20, 10), 1000, 3), (Budgets{19, 10, 1}));           // at least one
  EXPECT_EQ(past_budgets(pyramid(110, 10), 1000, 4), (Budgets{195, 132, 68, 5}));    // 195, 131.7, 68.3, 5
  EXPECT_EQ(past_budgets(pyramid(70, 10), 1000, 1), (Budgets{60}));
  CacheConfig streaming = pyramid(20, 10);
  streaming.policy = "streaming_llm";  // the last layer has room for four sinks
  EXPECT_EQ(past_budgets(streaming, 1000, 3), (Budgets{16, 10, 4}));
  CacheConfig uniform = pyramid(70, 10);
  uniform.allocation = Allocation::uniform;
  EXPECT_EQ(past_budgets(uniform, 1000, 3), (Budgets{60, 60, 60}));
}

TEST(Allocation, TheSumIsThatOfUniform) {
  for (int64_t layers : {1, 2, 3, 28, 30, 32, 80})
    for (int64_t B : {33, 40, 64, 96, 128, 333, 1024, 4096})
      for (int64_t L : {B + 1, B + 7, 2 * B, int64_t{131072}}) {
        const std::vector<int64_t> budgets = past_budgets(pyramid(B, 32), L, layers);
        int64_t sum = 0;
        for (size_t l = 0; l < budgets.size(); ++l) {
          sum += budgets[l];
          EXPECT_GE(budgets[l], 1);
          EXPECT_LE(budgets[l], L - 32);
          EXPECT_LE(budgets[l], budgets[l == 0 ? 0 : l - 1]);
        }
        EXPECT_EQ(sum, layers * (B - 32)) << layers << " layers, B " << B << ", L " << L;
      }
}

// A layer of the pyramid keeps what the policy keeps with that layer's budget for all.
TEST(Allocation, ALayerIsThatOfItsBudget) {
  auto sequence = make_self_communicator("sequence"), tensor = make_self_communicator("tensor");
  for (CacheConfig config : case_configs())
    for (int64_t layer : {0, 1, 4}) {
      config.allocation = Allocation::pyramid;
      EvictionCase c = random_case(config.policy, {333, 16, 120, 4, 2, 16, 32}, config, 6);
      c.layer = layer;
      const RankResult dealt = evict_case(c, *sequence, *tensor);
      c.config.budget.tokens = layer_budget(c.config, c.L, layer, c.layers);
      c.config.allocation = Allocation::uniform;
      const RankResult same = evict_case(c, *sequence, *tensor);
      EXPECT_EQ(dealt.kept, same.kept) << config.policy << ", layer " << layer;
      ASSERT_FALSE(dealt.kept.empty());
      EXPECT_EQ(static_cast<int64_t>(dealt.kept[0].size()), c.config.budget.tokens);
    }
}

}  // namespace
}  // namespace restkv::testing
