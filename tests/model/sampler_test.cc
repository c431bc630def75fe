#include "model/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "dist/base/error.h"
#include "model/sample_weight.h"

namespace restkv {
namespace {

std::map<int32_t, double> frequencies(const std::vector<float>& logits, const SamplingConfig& config, int draws) {
  std::map<int32_t, double> counts;
  for (int i = 0; i < draws; ++i) counts[sample(logits, config, 3, static_cast<uint64_t>(i))] += 1.0 / draws;
  return counts;
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  std::vector<float> logits = {0.0f, 2.0f, 1.0f, 2.0f};
  EXPECT_EQ(sample(logits, {}, 0, 0), 1);
}

TEST(Sampler, DrawsFollowTheSoftmax) {
  std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  SamplingConfig config;
  config.temperature = 1.0;
  auto f = frequencies(logits, config, 20000);
  EXPECT_NEAR(f[0], 0.5, 0.02);
  EXPECT_NEAR(f[1], 0.3, 0.02);
  EXPECT_NEAR(f[2], 0.2, 0.02);
  config.temperature = 0.5;  // squares the odds: 25 : 9 : 4
  f = frequencies(logits, config, 20000);
  EXPECT_NEAR(f[0], 25.0 / 38, 0.02);
  EXPECT_NEAR(f[2], 4.0 / 38, 0.02);
}

TEST(Sampler, TopKAndTopPCutTheTail) {
  std::vector<float> logits = {std::log(0.2f), std::log(0.5f), std::log(0.3f)};
  SamplingConfig config;
  config.temperature = 1.0;
  config.top_k = 2;
  auto f = frequencies(logits, config, 5000);
  EXPECT_EQ(f.count(0), 0u);
  EXPECT_NEAR(f[1], 5.0 / 8, 0.03);
  config.top_k = 0;
  config.top_p = 0.5;
  f = frequencies(logits, config, 1000);
  EXPECT_EQ(f.size(), 1u);
  EXPECT_EQ(f.begin()->first, 1);
  config.top_p = 0.51;
  EXPECT_EQ(frequencies(logits, config, 1000).size(), 2u);
}

TEST(Sampler, SameKeySameDraw) {
  std::vector<float> logits(100, 0.0f);
  SamplingConfig config;
  config.temperature = 1.0;
  config.seed = 5;
  EXPECT_EQ(sample(logits, config, 1, 2), sample(logits, config, 1, 2));
  int differ = 0;
  SamplingConfig other = config;
  other.seed = 6;
  for (uint64_t step = 0; step < 50; ++step)
    differ += sample(logits, config, 1, step) != sample(logits, other, 1, step);
  EXPECT_GT(differ, 40);
}

TEST(Sampler, WeightsAreTheExponential) {
  constexpr float kHighest = 7.25f;
  EXPECT_EQ(sample_weight(kHighest, kHighest, log2_scale(0.7)), uint64_t{1} << 40);
  uint64_t before = 0;
  for (float x = -60.0f; x <= kHighest; x += 0.0371f)
    for (double temperature : {1.0, 0.3, 40.0}) {
      auto weight = static_cast<double>(sample_weight(x, kHighest, log2_scale(temperature)));
      double exact = 0x1p40 * std::exp((static_cast<double>(x) - kHighest) / temperature);
      EXPECT_NEAR(weight, exact, 1.0 + 2e-13 * exact) << x << ", temperature " << temperature;
      if (temperature != 1.0) continue;
      EXPECT_GE(weight, static_cast<double>(before));
      before = static_cast<uint64_t>(weight);
    }
  EXPECT_EQ(sample_weight(-INFINITY, kHighest, 1.0), 0u);
  EXPECT_EQ(sample_weight(NAN, kHighest, 1.0), 0u);
}

TEST(Sampler, KeysOrderLogits) {
  std::vector<float> ascending = {-INFINITY, -3e38f, -1.5f, -1e-40f, 0.0f, 1e-40f, 2.0f, 3e38f, INFINITY};
  for (size_t i = 0; i + 1 < ascending.size(); ++i) EXPECT_LT(logit_key(ascending[i]), logit_key(ascending[i + 1]));
  for (float x : ascending) EXPECT_EQ(key_logit(logit_key(x)), x);
  EXPECT_EQ(logit_key(-0.0f), logit_key(0.0f));
  EXPECT_LT(logit_key(NAN), logit_key(-INFINITY));
}

// Of equal logits the lowest ids are kept, and only finite ones are drawn.
TEST(Sampler, TiesAndValuesThatAreNotFinite) {
  std::vector<float> logits(50, 1.0f);
  SamplingConfig config;
  config.temperature = 1.0;
  config.top_k = 7;
  auto f = frequencies(logits, config, 2000);
  EXPECT_EQ(f.size(), 7u);
  EXPECT_EQ(f.rbegin()->first, 6);
  config.top_p = 0.5;  // half of seven equal weights: the first four
  EXPECT_EQ(frequencies(logits, config, 2000).rbegin()->first, 3);
  config = {1.0, 0, 1.0, 0};
  logits = {-INFINITY, NAN, 0.0f, -INFINITY, 0.0f};
  f = frequencies(logits, config, 500);
  EXPECT_EQ(f.size(), 2u);
  EXPECT_NEAR(f[2], 0.5, 0.1);
  EXPECT_EQ(sample(std::vector<float>(3, NAN), config, 0, 0), 0);
}

TEST(Sampler, RefusesBadSettings) {
  EXPECT_THROW((SamplingConfig{-1.0, 0, 1.0, 0}.validate()), InputError);
  EXPECT_THROW((SamplingConfig{1.0, -1, 1.0, 0}.validate()), InputError);
  EXPECT_THROW((SamplingConfig{1.0, 0, 0.0, 0}.validate()), InputError);
  EXPECT_THROW((SamplingConfig{NAN, 0, 1.0, 0}.validate()), InputError);
  EXPECT_NO_THROW((SamplingConfig{0.7, 40, 0.9, 1}.validate()));
}

}  // namespace
}  // namespace restkv
