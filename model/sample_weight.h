// The arithmetic of sampling, defined so that host and device agree to the last bit: logits are ordered as integers,
// probabilities are integer weights, and sums of integers do not depend on their order.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "dist/base/mix.h"

namespace restkv {

/// The order of logits as unsigned integers: -0 and 0 are equal, a NaN is below everything.
RESTKV_HOST_DEVICE inline uint32_t logit_key(float logit) {
  if (!(logit == logit)) return 0;
  if (logit == 0.0f) logit = 0.0f;
  uint32_t bits = 0;
  memcpy(&bits, &logit, sizeof(bits));
  if (bits == 0x80000000u) bits = 0;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// The logit of a key (NaN for 0).
RESTKV_HOST_DEVICE inline float key_logit(uint32_t key) {
  uint32_t bits = (key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key;
  float logit = 0.0f;
  memcpy(&logit, &bits, sizeof(bits));
  return logit;
}

/// What sample_weight() multiplies differences of logits by. Precondition: temperature > 0.
RESTKV_HOST_DEVICE inline double log2_scale(double temperature) { return 1.4426950408889634 / temperature; }

/// floor(2^40 exp((logit - highest) / temperature)), to 1e-13 of its value: 2^18 of them add up to less than 2^64.
/// Every multiply-add is an explicit fma, so that no compiler may round it otherwise than the other one.
RESTKV_HOST_DEVICE inline uint64_t sample_weight(float logit, float highest, double scale) {
  double y = fma(static_cast<double>(logit) - static_cast<double>(highest), scale, 0.0);
  if (!(y > -41.0)) return 0;
  double whole = floor(y), x = y - whole;
  // 2^x by its Taylor series; the remainder is below 1e-13 on [0, 1].
  double p = 1.3691488853904128e-12;
  p = fma(p, x, 2.5678435993488206e-11);
  p = fma(p, x, 4.4455382718708116e-10);
  p = fma(p, x, 7.054911620801123e-09);
  p = fma(p, x, 1.01780860092397e-07);
  p = fma(p, x, 1.321548679014431e-06);
  p = fma(p, x, 1.5252733804059841e-05);
  p = fma(p, x, 0.0001540353039338161);
  p = fma(p, x, 0.0013333558146428443);
  p = fma(p, x, 0.009618129107628477);
  p = fma(p, x, 0.05550410866482158);
  p = fma(p, x, 0.24022650695910072);
  p = fma(p, x, 0.6931471805599453);
  p = fma(p, x, 1.0);
  return static_cast<uint64_t>(p * 0x1p52) >> (12 - static_cast<int>(whole));
}

/// The upper half of the 128-bit product.
RESTKV_HOST_DEVICE inline uint64_t multiply_high(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((static_cast<Wide>(a) * b) >> 64);
#endif
}

/// The weight that the likeliest tokens must reach: floor(top_p total), at least 1. top_p in (0, 1].
RESTKV_HOST_DEVICE inline uint64_t nucleus_goal(double top_p, uint64_t total) {
  uint64_t p = static_cast<uint64_t>(top_p * 0x1p63);
  uint64_t goal = (multiply_high(total, p) << 1) | ((total * p) >> 63);
  return goal > 0 ? goal : 1;
}

/// The generator's key of one request; with the step it gives one draw.
RESTKV_HOST_DEVICE inline uint64_t sampling_key(uint64_t seed, uint64_t request) {
  return mix64(mix64(seed) + request);
}

/// Uniform in [0, total).
RESTKV_HOST_DEVICE inline uint64_t draw_below(uint64_t total, uint64_t key, uint64_t step) {
  return multiply_high(mix64(key + step), total);
}

}  // namespace restkv
