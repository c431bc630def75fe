#include "dist/base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace restkv {
namespace {

// A 16-bit format by its definition, in double: sign, exponent with a bias, mantissa.
struct Format {
  int exponent_bits;
  int mantissa_bits;

  double value(uint16_t bits) const {
    int bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    int mantissa = bits & ((1 << mantissa_bits) - 1);
    double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1)
      return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * std::ldexp(1.0 + std::ldexp(mantissa, -mantissa_bits), exponent - bias);
  }

  // Round to nearest, ties to even, by search in the ordered positive values.
  uint16_t nearest(float x) const {
    uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    double a = std::fabs(static_cast<double>(x));
    uint16_t infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits);
    uint16_t low = 0, high = infinity;  // value(low) <= a < value(high)
    if (std::isinf(a)) return static_cast<uint16_t>(sign | infinity);
    while (high - low > 1) {
      uint16_t middle = static_cast<uint16_t>((low + high) / 2);
      (value(middle) <= a ? low : high) = middle;
    }
    // The step beyond the largest finite value counts as if the exponent went on.
    double above = high == infinity ? 2.0 * value(static_cast<uint16_t>(infinity - (1 << mantissa_bits))) : value(high);
    double to_low = a - value(low), to_high = above - a;
    bool up = to_high < to_low || (to_high == to_low && (low & 1));
    return static_cast<uint16_t>(sign | (up ? high : low));
  }
};

constexpr Format kBf16{8, 7};
constexpr Format kF16{5, 10};

template <class T>
void check_all_values(const Format& format, T (*narrow)(float)) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    T x{static_cast<uint16_t>(bits)};
    float wide = to_float(x);
    double expected = format.value(x.bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide)) << bits;
      T back = narrow(wide);
      ASSERT_TRUE(std::isnan(to_float(back))) << bits;
      ASSERT_EQ(back.bits & 0x8000, x.bits & 0x8000) << "the sign of NaN " << bits;
    } else {
      ASSERT_EQ(static_cast<double>(wide), expected) << bits;
      ASSERT_EQ(std::signbit(wide), std::signbit(expected)) << bits;
      ASSERT_EQ(narrow(wide).bits, x.bits);
    }
  }
}

// Every midpoint between neighbours and the floats beside it, then random floats of all magnitudes.
template <class T>
void check_rounding(const Format& format, T (*narrow)(float)) {
  for (uint32_t bits = 0; bits < 0xffff; ++bits) {
    float a = to_float(T{static_cast<uint16_t>(bits)}), b = to_float(T{static_cast<uint16_t>(bits + 1)});
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    float middle = static_cast<float>((static_cast<double>(a) + b) / 2);
    for (float x : {middle, std::nextafter(middle, a), std::nextafter(middle, b)})
      ASSERT_EQ(narrow(x).bits, format.nearest(x)) << std::hexfloat << x;
  }
  std::mt19937 random(1);
  for (int i = 0; i < 300000; ++i) {
    float x = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isnan(x))
      ASSERT_TRUE(std::isnan(to_float(narrow(x))));
    else
      ASSERT_EQ(narrow(x).bits, format.nearest(x)) << std::hexfloat << x;
  }
  const float inf = std::numeric_limits<float>::infinity(), max = std::numeric_limits<float>::max();
  for (float x : {inf, -inf, max, -max, 0.0f, -0.0f, std::numeric_limits<float>::denorm_min(), 65504.0f, 65519.99f,
                  65520.0f, -65520.0f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f})
    EXPECT_EQ(narrow(x).bits, format.nearest(x)) << std::hexfloat << x;
}

TEST(DType, Bf16AllValues) { check_all_values<bf16>(kBf16, to_bf16); }
TEST(DType, F16AllValues) { check_all_values<f16>(kF16, to_f16); }
TEST(DType, Bf16RoundsToNearestEven) { check_rounding<bf16>(kBf16, to_bf16); }
TEST(DType, F16RoundsToNearestEven) { check_rounding<f16>(kF16, to_f16); }

TEST(DType, NanStaysNanEvenWithALowPayload) {
  for (uint32_t payload : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0x7fc00000u}) {
    float nan = std::bit_cast<float>(payload);
    EXPECT_TRUE(std::isnan(to_float(to_bf16(nan)))) << payload;
    EXPECT_TRUE(std::isnan(to_float(to_f16(nan)))) << payload;
  }
}

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(dtype_of<float>()), 4);
  EXPECT_EQ(size_of(dtype_of<double>()), 8);
  EXPECT_EQ(size_of(dtype_of<bf16>()), 2);
  EXPECT_EQ(size_of(dtype_of<f16>()), 2);
  EXPECT_EQ(size_of(dtype_of<int32_t>()), 4);
  EXPECT_EQ(size_of(dtype_of<int64_t>()), 8);
  EXPECT_EQ(size_of(dtype_of<uint32_t>()), 4);
  EXPECT_EQ(size_of(dtype_of<uint64_t>()), 8);
  EXPECT_EQ(size_of(dtype_of<uint8_t>()), 1);
  EXPECT_EQ(name_of(DType::bf16), "bf16");
  EXPECT_EQ(name_of(DType::u64), "u64");
  EXPECT_EQ(name_of(Device::gpu), "gpu");
}

}  // namespace
}  // namespace restkv
