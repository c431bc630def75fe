// The points of a sweep, what they cost, and whether they fit.
#include "launch/bench/sweep.h"

#include <gtest/gtest.h>

#include "dist/base/error.h"
#include "launch/bench/costs.h"
#include "launch/bench/measure.h"
#include "launch/bench/point_plan.h"
#include "model/presets.h"
#include "tests/launch/temp_dir.h"

namespace restkv {
namespace {

using testing::TempDir;

RunConfig load(const std::vector<std::string>& sets) {
  TempDir dir;
  std::string path = dir.write("b.yaml", "model: {weights: random, preset: llama-3.1-8b}\n");
  RunConfig config = load_run_config(path, sets, ConfigUse::bench);
  config.file = "b.yaml";
  return config;
}

std::string sweep_error(const std::vector<std::string>& sets, int64_t world) {
  RunConfig config = load(sets);
  return testing::message_of<InputError>([&] { make_sweep(config, world); });
}

TEST(Sweep, EveryCombinationOnceInOrder) {
  RunConfig config = load({"bench.context=[100, 200]", "bench.policies=[full, restkv]", "bench.budgets=[64, 50%]",
                           "bench.batch=[4, 1, 4]", "bench.layouts=[2x1, 1x2]"});
  std::vector<BenchLayout> sweep = make_sweep(config, 2);
  ASSERT_EQ(sweep.size(), 2u);
  EXPECT_EQ(sweep[0].sequence, 2);
  EXPECT_EQ(sweep[1].tensor, 2);
  std::vector<std::string> got;
  for (const BenchGroup& g : sweep[0].groups) {
    got.push_back(fmt::format("{} {} {}", g.cache.policy, g.cache.budget.resolve(g.context), g.context));
    EXPECT_EQ(g.batch, (std::vector<int64_t>{1, 4}));
  }
  // `full` has no budget: 1024 is the configuration's, which it does not read.
  EXPECT_EQ(got, (std::vector<std::string>{"full 1024 100", "full 1024 200", "restkv 64 100", "restkv 64 200",
                                           "restkv 50 100", "restkv 100 200"}));
  RunConfig point = point_config(config, sweep[1], sweep[1].groups[2]);
  EXPECT_EQ(point.parallel.tensor, 2);
  EXPECT_EQ(point.cache.budget.tokens, 64);
  EXPECT_EQ(decode_steps(config, sweep[0].groups[0]), 2 * (1 + 32 + kTimedSteps));
  // Layouts of fewer ranks than the run, and they first.
  sweep = make_sweep(load({"bench.layouts=[2x2, 1x1, 2x1]"}), 5);
  EXPECT_EQ(sweep[0].ranks(), 1);
  EXPECT_EQ(sweep[1].ranks(), 2);
  EXPECT_EQ(sweep[2].ranks(), 4);
}

TEST(Sweep, WithoutLayoutsTheOneOfTheRun) {
  std::vector<BenchLayout> sweep = make_sweep(load({"parallel.tensor=2"}), 6);
  ASSERT_EQ(sweep.size(), 1u);
  EXPECT_EQ(sweep[0].sequence, 3);
  EXPECT_EQ(sweep[0].tensor, 2);
}

TEST(Sweep, APolicyThatCannotPoolSoTakesItsOwnWay) {
  RunConfig config = load({"bench.policies=[restkv, snapkv]", "cache.pooling=adaptive"});
  std::vector<BenchLayout> sweep = make_sweep(config, 1);
  EXPECT_EQ(sweep[0].groups[0].cache.pooling, Pooling::adaptive);
  EXPECT_EQ(sweep[0].groups[1].cache.pooling, Pooling::average);
}

TEST(Sweep, Mistakes) {
  EXPECT_EQ(sweep_error({"bench.layouts=[1x1, 2x2]"}, 1),
            "b.yaml: bench.layouts: 2x2 is 4 ranks, but the run has 1; expected mpirun -np 4, or layouts of at most 1 "
            "ranks");
  for (const char* bad : {"2", "x2", "2x", "2x1x1", "0x1", "ax1"})
    EXPECT_EQ(sweep_error({std::string("bench.layouts=[\"") + bad + "\"]"}, 1),
              std::string("b.yaml: bench.layouts: found \"") + bad + "\", expected sequence x tensor, for example 2x1");
  EXPECT_NE(sweep_error({"bench.policies=[full, snap]"}, 1).find("b.yaml: bench.policies: cache.policy: found 'snap'"),
            std::string::npos);
  EXPECT_NE(sweep_error({"bench.budgets=[8]"}, 1).find("b.yaml: bench, policy restkv: cache.budget: found 8"),
            std::string::npos);
  EXPECT_NE(testing::message_of<InputError>([] {
              load({"bench.context=[100, many]"});
            }).find("bench.context: found \"many\" (text), expected an integer of at least 1"),
            std::string::npos);
  EXPECT_NE(testing::message_of<InputError>([] { load({"bench.prompt=book"}); }).find("expected one of random"),
            std::string::npos);
}

TEST(Costs, CountedByHand) {
  ModelConfig m;
  m.layers = 2;
  m.hidden = 8;
  m.intermediate = 16;
  m.Hq = 4;
  m.Hkv = 2;
  m.d = 2;
  m.vocab = 10;
  // A layer: q 8x8, k and v 4x8 each, o 8x8, gate, up and down 16x8 each.
  const double layer = 64 + 32 + 32 + 64 + 3 * 128;
  PrefillCost prefill = prefill_cost(m, 3);
  EXPECT_EQ(prefill.linear, 2 * 3 * 2 * layer);
  EXPECT_EQ(prefill.attention, 2.0 /*layers*/ * 4 /*heads*/ * 6 /*pairs*/ * (2 * 2 + 2 * 2));
  EXPECT_EQ(prefill.head, 2 * 8 * 10);
  // Two sequences of 5 rows per head: 2 layers x 2 heads x 2 sequences x 5 rows, each read by two query heads.
  DecodeCost decode = decode_cost(m, 2, 1000.0, 40.0, 2.0, 640.0);
  EXPECT_EQ(decode.flops, 2 * 2 * (2 * layer + 80) + 40 * 2 * (2 * 2 + 2 * 2));
  EXPECT_EQ(decode.bytes, 1640.0);
}

TEST(RandomPrompt, DependsOnSeedIndexAndPlace) {
  std::vector<int32_t> a = random_prompt(1, 0, 100, 50), longer = random_prompt(1, 0, 200, 50);
  longer.resize(100);
  EXPECT_EQ(a, longer);
  EXPECT_NE(a, random_prompt(1, 1, 100, 50));
  EXPECT_NE(a, random_prompt(2, 0, 100, 50));
  for (int32_t token : a) EXPECT_TRUE(token >= 0 && token < 50);
}

class GpuPlan : public ::testing::Test {
 protected:
  /// The point of this context, batch and policy on one H200.
  PlanInput input(int64_t context, int64_t batch, const std::string& policy) {
    config_ = load({"bench.context=" + std::to_string(context), "bench.policies=[" + policy + "]",
                    "bench.new_tokens=64", "bench.batch=[" + std::to_string(batch) + "]"});
    sweep_ = make_sweep(config_, 1);
    checkpoint_ = make_random_checkpoint("llama-3.1-8b", preset_config("llama-3.1-8b"), 0, 1.0);
    raise_positions(config_, sweep_, &checkpoint_.config);
    const BenchGroup& group = sweep_[0].groups[0];
    return point_input(checkpoint_, point_config(config_, sweep_[0], group), group, batch, DecodeMode::tensor,
                       Device::gpu);
  }
  RunConfig config_;
  std::vector<BenchLayout> sweep_;
  Checkpoint checkpoint_;
};

constexpr int64_t kGiB = int64_t{1} << 30;

TEST_F(GpuPlan, HoldsEverythingInBf16) {
  PlanInput full = input(131072, 1, "full");
  MemoryPlan plan = plan_memory(full);
  ModelConfig m = preset_config("llama-3.1-8b");
  // The norms (and biases) are f32.
  EXPECT_EQ(plan.weights, 2 * m.parameters() + 2 * m.hidden * (2 * m.layers + 1));
  EXPECT_EQ(plan.layer_kv, int64_t{2} * 131072 * 1024 * 2);
  EXPECT_EQ(plan.cache, int64_t{32} * 8 * (131072 + 65 + kTimedSteps) * (2 * 128 * 2 + 4));
  PlanInput biased = full;
  const ModelConfig& q = biased.model = preset_config("qwen2.5-7b");
  EXPECT_EQ(plan_memory(biased).weights, 2 * q.parameters() + 2 * q.hidden * (2 * q.layers + 1) + 2 * 129024);
  PlanInput kept = input(131072, 1, "restkv");
  EXPECT_LT(plan_memory(kept).total(), 20 * kGiB);
  EXPECT_GT(plan_memory(kept).total(), 15 * kGiB);
  EXPECT_EQ(checkpoint_.config.max_positions, 131072 + 65 + kTimedSteps);  // random weights have no limit of their own
}

TEST_F(GpuPlan, EverySequenceOfABatchHasItsCache) {
  MemoryPlan one = plan_memory(input(32768, 1, "full")), eight = plan_memory(input(32768, 8, "full"));
  EXPECT_EQ(eight.cache, 8 * one.cache);
  EXPECT_EQ(eight.total() - one.total(), 7 * one.cache);
}

/// The number after `before` in `text`.
int64_t number_after(const std::string& text, const std::string& before) {
  size_t at = text.find(before);
  EXPECT_NE(at, std::string::npos) << before << " in " << text;
  return at == std::string::npos ? 0 : std::stoll(text.substr(at + before.size()));
}

TEST_F(GpuPlan, RefusalNamesTheLargestContextBatchAndBudget) {
  PlanInput point = input(131072, 8, "full");
  const int64_t available = 100 * kGiB;
  std::string text = refusal_of(point, plan_memory(point), 1, available);
  EXPECT_EQ(text.find("A batch of 8 prompts of 131072 tokens needs "), 0u) << text;
  auto fits = [&](const PlanInput& p) { return plan_memory(p).total() <= available; };
  PlanInput change = point;
  change.L = number_after(text, "a prompt of at most ");
  EXPECT_NE(text.find(" tokens (bench.context)"), std::string::npos) << text;
  EXPECT_TRUE(fits(change));
  change.L += 1;
  EXPECT_FALSE(fits(change));
  change = point;
  change.batch = number_after(text, "a batch of at most ");
  EXPECT_TRUE(fits(change));
  change.batch += 1;
  EXPECT_FALSE(fits(change));
  change = point;
  change.config.cache.policy = "restkv";
  change.output_factors = change.window_queries = true;
  change.config.cache.budget.tokens = number_after(text, "cache.policy: restkv with cache.budget: ");
  EXPECT_TRUE(fits(change));
  change.config.cache.budget.tokens += 1;
  EXPECT_FALSE(fits(change));
  EXPECT_EQ(text.find("model.dtype"), std::string::npos) << "bf16 already: " << text;
}

TEST_F(GpuPlan, OtherReasonsToRefuse) {
  PlanInput point = input(1000, 1, "restkv");
  EXPECT_EQ(refusal_of(point, plan_memory(point), 1, 0), "");
  point.config.cache.budget = {0, 0.01};
  EXPECT_EQ(refusal_of(point, plan_memory(point), 1, 0),
            "cache.budget is 10 tokens for this prompt, but cache.window is 32; expected at least 33");
  point.model.max_positions = 1064;
  EXPECT_EQ(refusal_of(point, plan_memory(point), 1, 0),
            "1000 tokens and 68 decode steps exceed the model's 1064 positions");
}

}  // namespace
}  // namespace restkv
