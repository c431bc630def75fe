#include "kvcache/output_factors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "dist/base/error.h"
#include "tests/kvcache/output_weights.h"

namespace restkv::testing {
namespace {

class OutputFactors : public ::testing::TestWithParam<double> {};

TEST_P(OutputFactors, GiveTheNormAfterTheProjection) {
  Context ctx({Device::cpu, 2});
  const Weights w = make_weights(300, 3, 24, GetParam());
  Tensor r = output_factors(ctx, MatrixView(w.wo.data(), w.hidden, w.heads * w.d), w.heads, w.d);
  ASSERT_EQ(r.shape(), (Shape{3, 24, 24}));
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  for (int64_t h = 0; h < w.heads; ++h) {
    const float* factor = r.data<float>() + h * w.d * w.d;
    for (int64_t i = 0; i < w.d; ++i) {
      EXPECT_GE(factor[i * w.d + i], 0.0f);
      for (int64_t j = 0; j < i; ++j) EXPECT_EQ(factor[i * w.d + j], 0.0f);
    }
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<double> x(static_cast<size_t>(w.d));
      for (double& value : x) value = normal(random);
      const double expected = direct_norm(w, h, x);
      EXPECT_NEAR(factor_norm(factor, w.d, x), expected, 1e-6 * expected) << "head " << h;
    }
  }
}
// Spectra: flat, decaying to 1e-2, and to 1e-4 (where a Cholesky factorisation in float32 breaks down).
INSTANTIATE_TEST_SUITE_P(Spectra, OutputFactors, ::testing::Values(1.0, 1e-2, 1e-4));

TEST(OutputFactorsOf, SlicesAndBf16GiveTheSameFactors) {
  Context ctx({Device::cpu, 1});
  Weights w = make_weights(64, 4, 16, 0.1);
  std::vector<bf16> half;
  for (float& x : w.wo) half.push_back(to_bf16(x)), x = to_float(half.back());
  MatrixView whole(w.wo.data(), 64, 64), whole_bf16(half.data(), DType::bf16, 64, 64, 64);
  Tensor all = output_factors(ctx, whole, 4, 16), from_bf16 = output_factors(ctx, whole_bf16, 4, 16);
  Tensor slice = output_factors(ctx, whole.block(0, 64, 32, 32), 2, 16);
  EXPECT_EQ(std::memcmp(all.raw(), from_bf16.raw(), static_cast<size_t>(all.bytes())), 0);
  EXPECT_EQ(std::memcmp(all.data<float>() + 2 * 256, slice.raw(), static_cast<size_t>(slice.bytes())), 0);
}

TEST(OutputFactorsOf, FewerRowsThanColumns) {
  Context ctx({Device::cpu, 1});
  const Weights w = make_weights(5, 1, 8, 0.5);
  Tensor r = output_factors(ctx, MatrixView(w.wo.data(), 5, 8), 1, 8);
  std::vector<double> x = {1, -2, 3, 0.5, 0.25, -1, 2, 1};
  const double expected = direct_norm(w, 0, x);
  EXPECT_NEAR(factor_norm(r.data<float>(), 8, x), expected, 1e-6 * expected);
}

TEST(OutputFactorsOf, RefusesTheWrongWidth) {
  Context ctx({Device::cpu, 1});
  const Weights w = make_weights(8, 2, 4, 0.5);
  EXPECT_THROW(output_factors(ctx, MatrixView(w.wo.data(), 8, 8), 3, 4), RuntimeFailure);
}

}  // namespace
}  // namespace restkv::testing
