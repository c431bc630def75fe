// Sixteen floats that the compiler maps to whatever vector registers the target has. A result computed lane by lane
// does not depend on which lane, or on how many lanes are in use: that is what makes scores equal on every layout.
#pragma once

#include <cstdint>
#include <cstring>

#include "dist/base/dtype.h"

namespace restkv {

inline constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t IntLanes __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint16_t HalfLanes __attribute__((vector_size(kLanes * sizeof(uint16_t))));

#define RESTKV_INLINE inline __attribute__((always_inline))

RESTKV_INLINE Lanes broadcast_lanes(float x) { return Lanes{} + x; }

RESTKV_INLINE Lanes load_lanes(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

/// Sixteen bf16 values, widened.
RESTKV_INLINE Lanes load_lanes(const bf16* p) {
  HalfLanes h;
  std::memcpy(&h, p, sizeof(h));
  typedef uint32_t WideLanes __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  WideLanes wide = __builtin_convertvector(h, WideLanes) << 16;
  Lanes v;
  std::memcpy(&v, &wide, sizeof(v));
  return v;
}

RESTKV_INLINE void store_lanes(float* p, Lanes v) { std::memcpy(p, &v, sizeof(v)); }

/// The sum of the sixteen lanes, as a tree of fixed shape.
RESTKV_INLINE float sum_lanes(Lanes v) {
  float a[kLanes];
  store_lanes(a, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  return a[0];
}

RESTKV_INLINE Lanes max_lanes(Lanes a, Lanes b) { return a > b ? a : b; }

/// exp(x), relative error below 2e-7 for x in [-87, 88]; 0 below, and for -inf; exp(88) above; NaN stays NaN. (Range
/// reduction by ln 2 in two parts, then a degree-6 Taylor-like polynomial on [-ln2/2, ln2/2].)
RESTKV_INLINE Lanes exp_lanes(Lanes x) {
  Lanes low = broadcast_lanes(-87.0f);
  Lanes clamped = max_lanes(x, low);
  clamped = clamped < 88.0f ? clamped : broadcast_lanes(88.0f);
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  Lanes rounder = broadcast_lanes(12582912.0f);
  Lanes n = clamped * 1.44269504088896341f + rounder;
  n = n - rounder;
  Lanes r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Lanes p = broadcast_lanes(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  IntLanes exponent = (__builtin_convertvector(n, IntLanes) + 127) << 23;
  Lanes scale;
  std::memcpy(&scale, &exponent, sizeof(scale));
  Lanes result = p * scale;
  result = x == x ? result : x;
  return x < low ? Lanes{} : result;
}

}  // namespace restkv
