// Mode `after`: the arguments of all its kernels, and what those of ||R_h (o_h - v_i)||^2 with f16 factors share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "dist/base/gpu_math.h"
#include "kvcache/gpu/layout.h"

namespace restkv::gpu {

constexpr float kValueScale = 64.0f;    // elements up to 1023 and down to 1e-6 are normal numbers of f16
constexpr int kFactorExponent = 10;     // the largest element of a scaled R_h lies in [512, 1024)
constexpr float kSmallestNorm = 16.0f;  // squared and scaled: below it the smallest f16 numbers would show

/// Of mode `after`, with values of type T.
template <class T>
struct AfterArguments {
  HeadMap heads;
  int64_t L_lc, stride, v_ld;
  const float* a;
  const float* o;
  const T* v;
  const float* r;
  float tau;
  float* s;
};
struct NormArguments : AfterArguments<__nv_bfloat16> {};

__device__ inline uint32_t pack_half(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// The power of two e for which max * 2^(kFactorExponent - e) is in the range of kFactorExponent, within limits.
__device__ inline int factor_exponent(float max) {
  int exponent = 0;
  if (max > 0.0f && max < INFINITY) frexpf(max, &exponent);
  exponent = min(max > 0.0f ? exponent : 0, 100);
  return exponent < -100 ? -100 : exponent;
}

/// ||R_h (o - v)||^2 by one warp in f32, for one position.
__device__ inline float exact_squared_norm(const float* r, const float* o, const __nv_bfloat16* v, int d) {
  float sum = 0.0f;
#pragma unroll 1
  for (int j = threadIdx.x % 32; j < d; j += 32) {
    float y = 0.0f;
#pragma unroll 1
    for (int k = j; k < d; ++k) y = fmaf(r[static_cast<int64_t>(j) * d + k], o[k] - __bfloat162float(v[k]), y);
    sum = fmaf(y, y, sum);
  }
  return warp_sum(sum);
}

}  // namespace restkv::gpu
