// Every refusal names the key, what was found and what is allowed.
#include <gtest/gtest.h>

#include <functional>

#include "dist/base/error.h"
#include "kvcache/evict.h"

namespace restkv::testing {
namespace {

std::string refusal(const std::function<void(CacheConfig&)>& change) {
  CacheConfig config;
  change(config);
  try {
    config.validate();
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(CacheConfig, AcceptsItsDefaultsAndEveryPolicy) {
  EXPECT_EQ(refusal([](CacheConfig&) {}), "accepted");
  EXPECT_EQ(refusal([](CacheConfig& c) { c.policy = "full"; }), "accepted");
  EXPECT_EQ(refusal([](CacheConfig& c) { c.policy = "random"; }), "accepted");
  EXPECT_EQ(refusal([](CacheConfig& c) { c.policy = "snapkv", c.pooling = Pooling::max; }), "accepted");
  EXPECT_EQ(refusal([](CacheConfig& c) { c.budget.fraction = 0.01; }), "accepted");
  for (const char* policy : {"sliding_window", "streaming_llm", "tova", "key_norm"})
    EXPECT_EQ(refusal([&](CacheConfig& c) { c.policy = policy; }), "accepted");
  EXPECT_EQ(refusal([](CacheConfig& c) { c.policy = "tova", c.window = 1; }), "accepted");
  EXPECT_EQ(refusal([](CacheConfig& c) { c.reconstruction = false; }), "accepted");
  EXPECT_EQ(refusal([](CacheConfig& c) { c.temporal = TemporalSmoothing::last, c.alpha = 0; }), "accepted");
}

TEST(CacheConfig, UnknownPolicyListsTheKnownOnes) {
  const std::string text = refusal([](CacheConfig& c) { c.policy = "snapkw"; });
  EXPECT_EQ(text,
            "cache.policy: found 'snapkw', allowed: restkv, full, random, snapkv, sliding_window, "
            "streaming_llm, h2o, lacache, tova, key_norm; nearest is 'snapkv'");
}

TEST(CacheConfig, RefusesEachBadValue) {
  using Change = std::function<void(CacheConfig&)>;
  const std::vector<std::pair<Change, std::string>> cases = {
      {[](CacheConfig& c) { c.window = 0; }, "cache.window: found 0"},
      {[](CacheConfig& c) { c.window = 1; }, "cache.window: found 1"},
      {[](CacheConfig& c) { c.budget.tokens = 32; }, "cache.budget: found 32 tokens, allowed: at least 33"},
      {[](CacheConfig& c) { c.budget.fraction = 1.5; }, "cache.budget: found the fraction 1.5"},
      {[](CacheConfig& c) { c.budget.fraction = -0.1; }, "cache.budget: found the fraction -0.1"},
      {[](CacheConfig& c) { c.kernel_size = 4; }, "cache.kernel_size: found 4, allowed: odd"},
      {[](CacheConfig& c) { c.kernel_size = -1; }, "cache.kernel_size: found -1"},
      {[](CacheConfig& c) { c.pooling = Pooling::max, c.kernel_size = 6; }, "cache.kernel_size: found 6"},
      {[](CacheConfig& c) { c.beta = 0; }, "cache.beta: found 0"},
      {[](CacheConfig& c) { c.alpha = 0; }, "cache.alpha: found 0"},
      {[](CacheConfig& c) { c.alpha = 1.1; }, "cache.alpha: found 1.1"},
      {[](CacheConfig& c) { c.tau = -1; }, "cache.tau: found -1"},
      {[](CacheConfig& c) { c.mode = ScoreMode::before, c.tau = 2; }, "cache.tau: found 2"},
      {[](CacheConfig& c) { c.normalize = true; }, "cache.normalize: found true"},
      {[](CacheConfig& c) { c.temporal = TemporalSmoothing::inverse_ema, c.alpha = 0; }, "cache.alpha: found 0"},
      {[](CacheConfig& c) { c.mode = ScoreMode::before, c.temporal = TemporalSmoothing::inverse_ema; },
       "cache.temporal: found inverse_ema, allowed with mode before: ema, mean"},
      {[](CacheConfig& c) { c.mode = ScoreMode::before, c.temporal = TemporalSmoothing::last; },
       "cache.temporal: found last, allowed with mode before: ema, mean"},
      {[](CacheConfig& c) { c.mode = ScoreMode::before, c.reconstruction = false; },
       "cache.reconstruction: found false, allowed with mode before: true"},
      {[](CacheConfig& c) { c.sinks = -1; }, "cache.sinks: found -1"},
      {[](CacheConfig& c) { c.policy = "streaming_llm", c.budget.tokens = 35; },
       "cache.budget: found 35 tokens, allowed: at least 36 (the window of 32 and 4 more)"},
      {[](CacheConfig& c) { c.policy = "tova", c.allocation = Allocation::ada; },
       "cache.allocation: found ada, allowed with policy tova, which keeps the same for all heads of a layer: uniform, "
       "pyramid"},
      {[](CacheConfig& c) { c.allocation = Allocation::ada, c.ada_floor = 1.5; }, "cache.ada_floor: found 1.5"},
      {[](CacheConfig& c) { c.policy = "snapkv"; }, "cache.pooling: found adaptive, allowed with policy snapkv"},
  };
  for (const auto& [change, expected] : cases) EXPECT_EQ(refusal(change).substr(0, expected.size()), expected);
}

TEST(Budget, ResolvesFractionsUpwards) {
  EXPECT_EQ((Budget{7, 0.0}).resolve(100), 7);
  EXPECT_EQ((Budget{7, 0.15}).resolve(6001), 901);
  EXPECT_EQ((Budget{7, 0.1}).resolve(30), 3);
  EXPECT_EQ((Budget{7, 1.0}).resolve(333), 333);
}

TEST(Evictor, RefusesAPromptWhoseFractionIsBelowTheWindow) {
  Context ctx({Device::cpu, 1});
  auto self = make_self_communicator();
  CacheConfig config;
  config.policy = "random";
  config.budget.fraction = 0.1;
  Evictor evictor(ctx, *self, *self, {2, 1, 8, {{0, 2}, {0, 1}}}, config);
  const SequencePartition partition(200, 1);
  EXPECT_TRUE(evictor.evicts(200));
  try {
    evictor.evict({0, &partition, {}, {}, {}, nullptr});
    FAIL() << "accepted";
  } catch (const InputError& error) {
    EXPECT_STREQ(
        error.what(),
        "cache.budget: the fraction 0.1 of a prompt of 200 tokens is 20 tokens, allowed: at least 33 (the window "
        "of 32 and one more)");
  }
}

TEST(Evictor, SaysWhatItNeeds) {
  Context ctx({Device::cpu, 1});
  auto self = make_self_communicator();
  auto evictor = [&](const char* policy, bool use_wo) {
    CacheConfig config;
    config.policy = policy;
    config.use_wo = use_wo;
    config.pooling = Pooling::average;
    config.budget.tokens = 100;
    return Evictor(ctx, *self, *self, {2, 1, 8, {{0, 2}, {0, 1}}}, config);
  };
  EXPECT_TRUE(evictor("restkv", true).needs_output_factors());
  EXPECT_FALSE(evictor("restkv", false).needs_output_factors());
  EXPECT_TRUE(evictor("restkv", false).needs_window_queries());
  EXPECT_TRUE(evictor("snapkv", true).needs_window_queries());
  EXPECT_TRUE(evictor("tova", true).needs_window_queries());
  EXPECT_FALSE(evictor("tova", true).needs_output_factors());
  EXPECT_FALSE(evictor("key_norm", true).needs_window_queries());
  EXPECT_FALSE(evictor("sliding_window", true).needs_window_queries());
  EXPECT_FALSE(evictor("streaming_llm", true).needs_window_queries());
  EXPECT_FALSE(evictor("lacache", true).needs_window_queries());
  EXPECT_FALSE(evictor("snapkv", true).needs_output_factors());
  EXPECT_FALSE(evictor("random", true).needs_window_queries());
  EXPECT_FALSE(evictor("full", true).needs_window_queries());
  EXPECT_FALSE(evictor("full", true).evicts(1000));
  EXPECT_TRUE(evictor("restkv", true).evicts(101));
  EXPECT_FALSE(evictor("restkv", true).evicts(100));
}

}  // namespace
}  // namespace restkv::testing
