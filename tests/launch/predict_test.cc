// The plan's times against what was measured, and how they behave beyond that.
#include "launch/plan/predict.h"

#include <gtest/gtest.h>

#include <cmath>

#include "dist/base/error.h"
#include "model/presets.h"
#include "tests/launch/temp_dir.h"

namespace restkv {
namespace {

// README.md, "Measured on one H200": Llama-3.1-8B's shape, 1,024 tokens kept of each prompt, or all.
struct Measured {
  const char* policy;
  int64_t context, batch;
  double prefill_s, decode_ms;
};
constexpr Measured kOneH200[] = {
    {"full", 4096, 1, 0.099, 4.11},     {"full", 4096, 8, 0.099, 5.12},     {"restkv", 4096, 1, 0.101, 3.99},
    {"restkv", 4096, 8, 0.101, 4.40},   {"full", 32768, 1, 1.217, 4.94},    {"full", 32768, 8, 1.217, 11.98},
    {"restkv", 32768, 1, 1.225, 3.98},  {"restkv", 32768, 8, 1.225, 4.40},  {"full", 131072, 1, 10.51, 7.65},
    {"restkv", 131072, 1, 10.53, 3.96}, {"restkv", 131072, 8, 10.53, 4.43}, {"restkv", 262144, 1, 36.36, 4.00},
    {"restkv", 32768, 16, 1.226, 5.21}, {"restkv", 32768, 32, 1.226, 6.22}, {"restkv", 32768, 64, 1.226, 8.10},
};
constexpr double kTolerance = 0.15;

PlanInput input_of(const std::string& policy, int64_t context, int64_t batch, int sequence, int tensor,
                   DecodeMode decode = DecodeMode::tensor) {
  testing::TempDir dir;
  RunConfig config = load_run_config(dir.write("b.yaml", "model: {weights: random, preset: llama-3.1-8b}\n"),
                                     {"cache.policy=" + policy}, ConfigUse::bench);
  config.parallel.sequence = sequence;
  config.parallel.tensor = tensor;
  Checkpoint checkpoint;
  checkpoint.config = preset_config("llama-3.1-8b");
  PlanInput input = make_plan_input(checkpoint, config, decode, context, Device::gpu);
  input.new_tokens = 64;
  input.batch = batch;
  return input;
}

TEST(Predict, WithinFifteenPercentOfOneH200) {
  for (const Measured& m : kOneH200) {
    SCOPED_TRACE(fmt::format("{} of {} tokens, batch {}", m.policy, m.context, m.batch));
    Prediction p = predict(input_of(m.policy, m.context, m.batch, 1, 1), h200(), 8);
    EXPECT_NEAR(p.prefill(), m.prefill_s, kTolerance * m.prefill_s);
    EXPECT_NEAR(p.decode() * 1e3, m.decode_ms, kTolerance * m.decode_ms);
    EXPECT_EQ(p.exchange + p.evict_exchange + p.reshard + p.decode_exchange, 0.0);
  }
}

// README.md, "Measured on several H200": layouts of two and of four in one run each.
struct MeasuredLayout {
  int sequence, tensor;
  Measured point;
};
constexpr MeasuredLayout kSeveralH200[] = {
    {2, 1, {"restkv", 32768, 1, 0.663, 2.530}},   {2, 1, {"restkv", 32768, 8, 0.663, 2.746}},
    {2, 1, {"full", 32768, 1, 0.679, 3.049}},     {2, 1, {"full", 32768, 8, 0.679, 6.658}},
    {1, 2, {"restkv", 32768, 1, 0.711, 2.525}},   {1, 2, {"full", 32768, 1, 0.720, 3.054}},
    {2, 1, {"restkv", 131072, 1, 5.379, 2.519}},  {2, 1, {"restkv", 131072, 8, 5.379, 2.744}},
    {2, 1, {"full", 131072, 1, 5.373, 4.422}},    {2, 1, {"full", 131072, 8, 5.373, 18.728}},
    {1, 2, {"restkv", 131072, 1, 5.668, 2.529}},  {1, 2, {"full", 131072, 1, 5.658, 4.432}},
    {2, 1, {"restkv", 1048576, 1, 264.7, 2.484}}, {4, 1, {"restkv", 131072, 1, 3.008, 1.620}},
    {2, 2, {"restkv", 131072, 1, 2.897, 1.621}},  {1, 4, {"restkv", 131072, 1, 3.094, 1.597}},
    {4, 1, {"full", 131072, 8, 3.012, 9.564}},
};

TEST(Predict, WithinFifteenPercentOfSeveralH200) {
  for (const auto& [sequence, tensor, m] : kSeveralH200) {
    SCOPED_TRACE(fmt::format("{}x{}, {} of {} tokens, batch {}", sequence, tensor, m.policy, m.context, m.batch));
    Prediction p = predict(input_of(m.policy, m.context, m.batch, sequence, tensor), h200(), 8);
    EXPECT_NEAR(p.prefill(), m.prefill_s, kTolerance * m.prefill_s);
    EXPECT_NEAR(p.decode() * 1e3, m.decode_ms, kTolerance * m.decode_ms);
  }
}

TEST(Predict, ScoringOfOneH200) {
  const std::pair<int64_t, double> measured[] = {{4096, 0.15e-3}, {32768, 0.39e-3}, {131072, 0.98e-3}};
  for (auto [context, seconds] : measured)
    EXPECT_NEAR(predict(input_of("restkv", context, 1, 1, 1), h200(), 8).scoring / 32, seconds, kTolerance * seconds)
        << context;
}

// NCCL between two H200 (launch/plan/machine.cc).
TEST(Predict, SumsOfTwoH200) {
  const std::pair<double, double> measured[] = {{4096, 6.9e-6},   {65536, 7.0e-6},    {1 << 20, 13.5e-6},
                                                {1 << 24, 74e-6}, {1 << 30, 3.27e-3}, {2.0 * (1 << 30), 6.5e-3}};
  for (auto [bytes, seconds] : measured)
    EXPECT_NEAR(all_reduce_seconds(h200(), {2, 1}, 8, bytes), seconds, 0.05 * seconds) << bytes;
  EXPECT_EQ(all_reduce_seconds(h200(), {1, 1}, 8, 4096), 0.0);
}

TEST(Predict, MoreRanksAreFasterAndTheirExchangesCount) {
  double before = 1e9;
  for (int n : {1, 2, 8, 64, 512}) {
    Prediction p = predict(input_of("restkv", 1 << 20, 1, n, 1), h200(), 8);
    EXPECT_LT(p.prefill(), before) << n;
    EXPECT_GE(p.prefill() * n, 0.99 * predict(input_of("restkv", 1 << 20, 1, 1, 1), h200(), 8).linear) << n;
    EXPECT_EQ(p.evict_exchange > 0.0, n > 1);
    EXPECT_EQ(p.decode_exchange > 0.0, n > 1);
    before = p.prefill();
  }
  // Two ranks read half of the weights each, and sum twice a layer.
  Prediction one = predict(input_of("restkv", 131072, 1, 1, 1), h200(), 8);
  Prediction two = predict(input_of("restkv", 131072, 1, 2, 1), h200(), 8);
  EXPECT_NEAR(two.decode_exchange, 64 * 3.3e-6, 0.2 * 64 * 3.3e-6);
  EXPECT_LT(two.decode(), 0.75 * one.decode());
  EXPECT_GT(one.prefill() / two.prefill() / 2, 0.95);
  // In mode `sequence` every rank reads all weights.
  Prediction sequence = predict(input_of("restkv", 131072, 1, 2, 1, DecodeMode::sequence), h200(), 8);
  EXPECT_EQ(sequence.products, one.products);
  EXPECT_GT(sequence.decode(), two.decode());
  EXPECT_EQ(sequence.reshard, 0.0);
}

TEST(Predict, GroupsThatSpanNodesAreSlower) {
  const Machine m = h200();
  EXPECT_GT(all_reduce_seconds(m, {16, 1}, 8, 16384), all_reduce_seconds(m, {8, 1}, 8, 16384) + 15e-6);
  // One rank on each of two nodes has one adapter; eight on each have eight.
  EXPECT_NEAR(all_gather_seconds(m, {2, 8}, 8, 45e9), 1.0, 0.01);
  EXPECT_NEAR(all_gather_seconds(m, {16, 1}, 8, 328e9), 1.0, 0.01);
  EXPECT_EQ(all_gather_seconds(m, {2, 4}, 8, 1e9), all_gather_seconds(m, {2, 1}, 8, 1e9));
}

TEST(Predict, CurvesAreLevelBeyondTheirEnds) {
  Curve curve = {{1, 1.0}, {4, 3.0}};
  EXPECT_EQ(value_at(curve, 0.5), 1.0);
  EXPECT_NEAR(value_at(curve, 2), std::sqrt(3.0), 1e-12);
  EXPECT_EQ(value_at(curve, 9), 3.0);
}

}  // namespace
}  // namespace restkv
