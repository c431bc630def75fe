#include "dist/base/lanes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace restkv {
namespace {

float exp_of(float x) {
  float out[kLanes];
  store_lanes(out, exp_lanes(broadcast_lanes(x)));
  return out[0];
}

TEST(Lanes, ExpIsAccurateOverItsRange) {
  double worst = 0.0;
  float worst_x = 0.0f;
  auto check = [&](float x) {
    double expected = std::exp(static_cast<double>(x));
    double error = std::fabs(exp_of(x) - expected) / expected;
    if (error > worst) worst = error, worst_x = x;
  };
  // Every 997th float between 1e-12 and 88 on either side of zero.
  for (uint32_t u = std::bit_cast<uint32_t>(1e-12f); u <= std::bit_cast<uint32_t>(88.0f); u += 997) {
    check(std::bit_cast<float>(u));
    if (std::bit_cast<float>(u) <= 87.0f) check(-std::bit_cast<float>(u));
  }
  for (float x : {0.0f, -0.0f, 1.0f, -1.0f, 88.0f, -87.0f, 0.34657359f, -0.34657359f, 0.34657362f}) check(x);
  RecordProperty("worst", std::to_string(worst));
  EXPECT_LT(worst, 2e-7) << "at " << worst_x;
}

TEST(Lanes, ExpAtTheEdges) {
  EXPECT_EQ(exp_of(0.0f), 1.0f);
  EXPECT_EQ(exp_of(-87.5f), 0.0f);
  EXPECT_EQ(exp_of(-1e30f), 0.0f);
  EXPECT_EQ(exp_of(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_EQ(exp_of(1000.0f), exp_of(88.0f)) << "clamped";
  EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN()))) << "an error must not look like a zero";
}

TEST(Lanes, EachLaneAlone) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> values(-90.0f, 90.0f);
  for (int round = 0; round < 2000; ++round) {
    float in[kLanes], out[kLanes];
    for (float& x : in) x = values(random);
    store_lanes(out, exp_lanes(load_lanes(in)));
    for (int i = 0; i < kLanes; ++i) ASSERT_EQ(out[i], exp_of(in[i])) << "a lane depends on its neighbours";
  }
}

TEST(Lanes, LoadsStoresSumAndMaximum) {
  float a[kLanes], b[kLanes], out[kLanes];
  bf16 h[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    a[i] = static_cast<float>(i);
    b[i] = static_cast<float>(kLanes - 1 - i);
    h[i] = to_bf16(0.37f * static_cast<float>(i - 5));
  }
  EXPECT_EQ(sum_lanes(load_lanes(a)), 120.0f);
  store_lanes(out, max_lanes(load_lanes(a), load_lanes(b)));
  for (int i = 0; i < kLanes; ++i) EXPECT_EQ(out[i], std::max(a[i], b[i]));
  store_lanes(out, load_lanes(h));
  for (int i = 0; i < kLanes; ++i) EXPECT_EQ(out[i], to_float(h[i]));
}

}  // namespace
}  // namespace restkv
