// Mode `before` by products of warpgroups: what is known of the window rows before the positions come. For
// *_sm90a_gpu.cu files of kvcache/scores; formulas and names in reconstruction_before_sm90a_gpu.cu.
#pragma once

#include "kvcache/scores/before_kernels.h"
#include "kvcache/scores/warpgroup_norms.h"

namespace restkv::gpu {

constexpr int kWindowRows = 32;    // of a product
constexpr int kRowsPerBlock = 4;   // of window_kernel
constexpr float kFarAway = 1e30f;  // K_w of rows that are not there: the nearest row is another one

// What is behind R_h and c in a head's packed data, for each 32 window rows: the upper and the lower halves of u, each
// in the layout of a block of R_h; then what is known of each row.
template <class S>
struct Window {
  static_assert(S::kN == kWindowRows);
  static constexpr int kStepBytes = kWindowRows * S::kRowBytes;
  static constexpr int kHalfBytes = S::kSteps * kStepBytes;
  static constexpr int kRowsAt = 2 * kHalfBytes;
  static constexpr int kWeightsAt = kRowsAt + kWindowRows * 16;
  static constexpr int kBytes = kWeightsAt + kWindowRows * 8;
  // Logits of a warp's positions: [kWindowRows][kPitch], the pitch for threads of four that read different rows.
  static constexpr int kPitch = 16 * S::kM + 4;
  static constexpr int kLogitBytes = kWindowRows * kPitch * 4;
  static constexpr int kAllLogitBytes = 4 * S::kWarpgroups * kLogitBytes;

  static int windows(int64_t W) { return static_cast<int>((W + kWindowRows - 1) / kWindowRows); }
  static int64_t head_bytes(int64_t W) { return S::kHeadBytes + windows(W) * int64_t{kBytes}; }
  static int most_heads(int64_t W) {
    return static_cast<int>((kSharedBytes - kAllLogitBytes) / (head_bytes(W) + static_cast<int64_t>(sizeof(float))));
  }
};

// Of a row: K_w; what v_i . u_w is multiplied by; maximum and 1 / sum of its logits.
using RowConstants = float4;
// Of a row: its share in the score, in units of scaled norms; |t_w|.
using RowWeight = float2;

struct BeforeProducts : BeforeArguments<__nv_bfloat16> {
  unsigned char* packed;  // [Hq_lc][head_bytes]
  const HeadLimits* limits;
  Unsettled marks;
  int head_bytes, windows;
  int heads_per_list, chunks;  // a list: query heads of one KV head that are in shared memory together
};

__device__ inline float rounded(float x, float scale) { return __half2float(__float2half_rn(x * scale)); }

// The largest over all threads of a block, on every thread.
__device__ inline float block_max(float x, float* scratch) {
  x = warp_max(x);
  const int lane = static_cast<int>(threadIdx.x) % 32, warps = static_cast<int>(blockDim.x) / 32;
  if (lane == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  x = warp_max(lane < warps ? scratch[lane] : 0.0f);
  __syncthreads();
  return x;
}

// By one thread: what is known of row w. square: |t_w|^2; cross: (R_h c) . t_w; exponent: of the largest of u_w.
template <class S>
__device__ inline void write_row(const BeforeProducts& p, int h, int w, float square, float cross, float length,
                                 int exponent) {
  unsigned char* window =
      p.packed + static_cast<int64_t>(h) * p.head_bytes + S::kHeadBytes + w / kWindowRows * Window<S>::kBytes;
  RowConstants constants = {kFarAway, 0.0f, INFINITY, 0.0f};
  RowWeight weight = {0.0f, 0.0f};
  if (w < p.W) {
    const int64_t row = static_cast<int64_t>(h) * p.W + w;
    const float2 m = p.softmax[row];
    const float scale = p.normalize && length > 0.0f ? 1.0f / sqrtf(length) : 1.0f;
    p.scale[row] = scale;
    constants = {square + 2.0f * cross, -2.0f * ldexpf(1.0f, exponent - kFactorExponent), m.y > 0.0f ? m.x : INFINITY,
                 m.y};
    weight = {p.reduce.share(w, p.W) * scale * p.limits[h].x, square < INFINITY ? sqrtf(square) : INFINITY};
  }
  reinterpret_cast<RowConstants*>(window + Window<S>::kRowsAt)[w % kWindowRows] = constants;
  reinterpret_cast<RowWeight*>(window + Window<S>::kWeightsAt)[w % kWindowRows] = weight;
}

// t_w, u_w, and R_h o_w without any rounding of R_h (as plain arithmetic has it: multiply_rows() in
// reconstruction_plain_gpu.cu), for kRowsPerBlock rows of a head. Thread n: row n of R_h, then column n.
template <class S>
static __global__ void __launch_bounds__(S::kD) window_kernel(const __grid_constant__ BeforeProducts p) {
  constexpr int kD = S::kD, kRows = kRowsPerBlock;
  __shared__ float o[kRows][kD], x[kRows][kD], t[kRows][kD], scratch[32];
  let_next_start();
  const int h = static_cast<int>(blockIdx.x), w0 = static_cast<int>(blockIdx.y) * kRows;
  const int n = static_cast<int>(threadIdx.x);
  const float* rows = p.o + static_cast<int64_t>(h) * p.W * kD;
  const float* r = p.r + static_cast<int64_t>(h) * kD * kD;
  const float scale = 1.0f / (p.limits[h].x * kValueScale);  // a power of two
  const float centre = mean_of_column<kD>(rows, p.W, n);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    o[i][n] = w0 + i < p.W ? rows[(w0 + i) * kD + n] : 0.0f;
    x[i][n] = w0 + i < p.W ? (o[i][n] - centre) * kValueScale : 0.0f;
  }
  __syncthreads();
  float y[kRows] = {}, z[kRows] = {};
#pragma unroll 2
  for (int k = n / 4 * 4; k < kD; k += 4) {
    const float4 vector = __ldg(reinterpret_cast<const float4*>(r + n * kD + k));
    const float f[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float factor = k + e < n ? 0.0f : f[e], half = rounded(factor, scale);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        y[i] = fmaf(half, x[i][k + e], y[i]);
        z[i] = fmaf(factor, o[i][k + e], z[i]);
      }
    }
  }
  const unsigned char* head = p.packed + static_cast<int64_t>(h) * p.head_bytes;
  const float c = reinterpret_cast<const float*>(head + S::kFactorBytes)[place_of_column(n)];
  float square[kRows], cross[kRows], length[kRows], u[kRows] = {};
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    t[i][n] = y[i];
    if (w0 + i < p.W) p.c[(static_cast<int64_t>(h) * p.W + w0 + i) * kD + n] = z[i];
    square[i] = block_sum(y[i] * y[i], scratch);
    cross[i] = block_sum(c * y[i], scratch);
    length[i] = p.normalize ? block_sum(z[i] * z[i], scratch) : 0.0f;
  }
#pragma unroll 8
  for (int j = 0; j < n / 32 * 32 + 32; ++j) {
    const float half = rounded(j > n ? 0.0f : __ldg(r + j * kD + n), scale);
#pragma unroll
    for (int i = 0; i < kRows; ++i) u[i] = fmaf(half, t[i][j], u[i]);
  }
  const int step = n / 32 * 2 + n % 8 / 4;  // as in pack_kernel
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int w = w0 + i, row = w % kWindowRows, exponent = factor_exponent(block_max(fabsf(u[i]), scratch));
    const float scaled = u[i] * ldexpf(1.0f, kFactorExponent - exponent);
    const __half high = __float2half_rn(scaled);
    unsigned char* to = p.packed + static_cast<int64_t>(h) * p.head_bytes + S::kHeadBytes +
                        w / kWindowRows * Window<S>::kBytes + step * Window<S>::kStepBytes +
                        row / 8 * 2 * S::kPieceBytes + n % 4 / 2 * S::kPieceBytes + row % 8 * 16 + n % 32 / 8 * 4 +
                        n % 2 * 2;
    *reinterpret_cast<__half*>(to) = high;
    *reinterpret_cast<__half*>(to + Window<S>::kHalfBytes) = __float2half_rn(scaled - __half2float(high));
    if (n == 0) write_row<S>(p, h, w, square[i], cross[i], length[i], exponent);
  }
}

}  // namespace restkv::gpu
