#include "model/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "dist/base/error.h"

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

TEST(Sampler, RefusesBadSettings) {
  EXPECT_THROW((SamplingConfig{-1.0, 0, 1.0, 0}.validate()), InputError);
  EXPECT_THROW((SamplingConfig{1.0, -1, 1.0, 0}.validate()), InputError);
  EXPECT_THROW((SamplingConfig{1.0, 0, 0.0, 0}.validate()), InputError);
  EXPECT_THROW((SamplingConfig{NAN, 0, 1.0, 0}.validate()), InputError);
  EXPECT_NO_THROW((SamplingConfig{0.7, 40, 0.9, 1}.validate()));
}

}  // namespace
}  // namespace restkv
