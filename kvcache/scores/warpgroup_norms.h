// Norms of R_h (o_h - v_i) by products of warpgroups: the arrangement in shared memory and the products, for
// *_sm90a_gpu.cu files of kvcache/scores. How they work: reconstruction_sm90a_gpu.cu.
#pragma once

#include <utility>

#include "dist/base/gpu_launch.h"
#include "kvcache/gpu/squared_norms.h"
#include "kvcache/gpu/tensor_core.h"
#include "kvcache/gpu/warpgroup.h"

namespace restkv::gpu {

constexpr int kSharedBytes = 225 * 1024;      // one block per multiprocessor
constexpr float kNearest = 1.0f / (1 << 20);  // of |R_h|^2 |o|^2: squared norms below it are computed again

template <int kD_, int kN_, int kM_, int kWarpgroups_>
struct Shape {
  static constexpr int kD = kD_, kN = kN_, kM = kM_, kWarpgroups = kWarpgroups_;
  static constexpr int kThreads = 128 * kWarpgroups;
  static constexpr int kPositions = 64 * kM;  // of a warpgroup
  static constexpr int kSteps = kD / 16;      // of 16 columns
  static constexpr int kBlocks = kD / kN;     // of kN rows of R_h
  static constexpr int kBlockSteps = kN / 16;
  static constexpr int kRuns = kD / 32;  // of 32 columns
  static_assert(kBlocks % 2 == 0, "blocks take turns with two sets of sums");
  // R_h in f16: for every step the rows that need it, in pieces of eight rows and eight columns.
  static constexpr int kPieceBytes = 128, kRowBytes = 32;
  __host__ __device__ static constexpr int step_at(int step) {
    const int whole = step / kBlockSteps, rest = step % kBlockSteps;
    return kRowBytes * kN * (whole + 1) * (kBlockSteps * whole / 2 + rest);
  }
  static constexpr int kFactorBytes = step_at(kSteps);
  static constexpr int kHeadBytes = kFactorBytes + kD * 4;  // and c
  static constexpr int kValueVectors = 2 * kM * kRuns;      // of 16 bytes per thread
  static constexpr int kValueBytes = kThreads * kValueVectors * 16;
  static constexpr int kMostHeads = (kSharedBytes - kValueBytes) / kHeadBytes;
  static_assert(kMostHeads > 0);
  // Long and short blocks alternate.
  __host__ __device__ static constexpr int block(int i) { return i % 2 == 0 ? i / 2 : kBlocks - 1 - i / 2; }
};

// Per head: what a norm is multiplied by; the smallest scaled squared norm that is good enough; the lengths of R_h (all
// its elements) and of o_h, both scaled.
using HeadLimits = float4;

// Place of column n of c [d] as a float: a thread reads its columns of 16 as one vector.
__device__ inline int place_of_column(int n) { return n / 16 * 16 + n % 8 / 2 * 4 + n % 16 / 8 * 2 + n % 2; }

// The mean of `rows` rows of kD elements in one column.
template <int kD>
__device__ inline float mean_of_column(const float* rows, int count, int column) {
  float sum = rows[column];
  for (int w = 1; w < count; ++w) sum += rows[w * kD + column];
  return count == 1 ? sum : sum / static_cast<float>(count);
}

// R_h in f16 in the order in which it is multiplied, c, and the limits, for o_h the mean of `rows` rows of o [Hq_lc,
// rows, kD]. Heads are head_bytes apart in `factors`. One block per head.
template <class S>
static __global__ void __launch_bounds__(1024)
    pack_kernel(const float* r, const float* o, int rows, unsigned char* factors, int head_bytes, HeadLimits* limits) {
  constexpr int kD = S::kD, kVectors = kD * kD / 4, kPerThread = kVectors / 1024, kLanes = kD / 4;
  __shared__ float scratch[32], part[kD][2];
  let_next_start();
  const int h = blockIdx.x, lane = threadIdx.x % 32;
  const float4* from = reinterpret_cast<const float4*>(r + static_cast<int64_t>(h) * kD * kD);
  const int column = static_cast<int>(threadIdx.x) % kLanes * 4;
  const float* all = o + static_cast<int64_t>(h) * rows * kD;
  float o4[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) o4[k] = mean_of_column<kD>(all, rows, column + k) * kValueScale;
  // Four elements of a row from the diagonal on. Many vectors do not stay in registers and are read again.
  const auto load = [&](int i, float(&x)[4]) {
    const float4 vector = from[i * 1024 + threadIdx.x];
    const int row = (i * 1024 + static_cast<int>(threadIdx.x)) / kLanes;
    x[0] = column < row ? 0.0f : vector.x;
    x[1] = column + 1 < row ? 0.0f : vector.y;
    x[2] = column + 2 < row ? 0.0f : vector.z;
    x[3] = column + 3 < row ? 0.0f : vector.w;
  };
  float f[kPerThread][4];
  float max = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    load(i, f[i]);
#pragma unroll
    for (int k = 0; k < 4; ++k) max = fmaxf(max, fabsf(f[i][k]));
  }
  max = warp_max(max);
  if (lane == 0) scratch[threadIdx.x / 32] = max;
  __syncthreads();
  const int exponent = factor_exponent(warp_max(scratch[lane]));
  __syncthreads();
  const float scale = ldexpf(1.0f, kFactorExponent - exponent);
  unsigned char* to = factors + static_cast<int64_t>(h) * head_bytes;
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int row = (i * 1024 + static_cast<int>(threadIdx.x)) / kLanes;
    if constexpr (kPerThread > 4) load(i, f[i]);
    const __half2 low = __floats2half2_rn(f[i][0] * scale, f[i][1] * scale);
    const __half2 high = __floats2half2_rn(f[i][2] * scale, f[i][3] * scale);
    const float2 x0 = __half22float2(low), x1 = __half22float2(high);
    squares = fmaf(x0.x, x0.x, fmaf(x0.y, x0.y, fmaf(x1.x, x1.x, fmaf(x1.y, x1.y, squares))));
    float c = fmaf(x0.x, o4[0], fmaf(x0.y, o4[1], fmaf(x1.x, o4[2], x1.y * o4[3])));
#pragma unroll
    for (int offset = (kLanes < 32 ? kLanes : 32) / 2; offset > 0; offset /= 2)
      c += __shfl_xor_sync(0xffffffffu, c, offset);
    if (threadIdx.x % (kLanes < 32 ? kLanes : 32) == 0) part[row][threadIdx.x % kLanes / 32] = c;
    // Eight neighbouring columns are a thread's part of two steps: four of each.
    const int step = column / 32 * 2 + column % 8 / 4, t = column % 32 / 8;
    if (row >= (step / S::kBlockSteps + 1) * S::kN) continue;  // zeros that nobody multiplies by
    unsigned char* piece = to + S::step_at(step) + row / 8 * 2 * S::kPieceBytes + row % 8 * 16 + t * 4;
    *reinterpret_cast<__half2*>(piece) = low;
    *reinterpret_cast<__half2*>(piece + S::kPieceBytes) = high;
  }
  const float factor_squares = block_sum(squares, scratch);
  const bool column_there = threadIdx.x < kD;
  float length = column_there ? mean_of_column<kD>(all, rows, static_cast<int>(threadIdx.x)) * kValueScale : 0.0f;
  length = block_sum(length * length, scratch);
  if (column_there) {
    const int n = static_cast<int>(threadIdx.x);
    float* c = reinterpret_cast<float*>(to + S::kFactorBytes);
    c[place_of_column(n)] = kLanes > 32 ? part[n][0] + part[n][1] : part[n][0];
  }
  if (threadIdx.x == 0)
    limits[h] = {ldexpf(1.0f, exponent - kFactorExponent) / kValueScale,
                 fmaxf(kSmallestNorm, kNearest * factor_squares * length), sqrtf(factor_squares), sqrtf(length)};
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// What a thread holds of a tile: 64 kM positions of its warpgroup.
template <class S>
using Values = uint32_t[S::kM][S::kSteps][4];  // as the products take them
template <class S>
using Sums = float[S::kM][S::kN / 2];  // of a block of rows of R_h
template <class S>
using PerRow = float[S::kM][2];  // of the thread's positions 64 m + 8 half behind its first

// The first of a thread's positions in its tile.
__device__ inline int first_row() {
  return static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}

// Two bf16, scaled, in f16. A bf16 is the upper half of an f32.
__device__ inline uint32_t convert(uint32_t pair) {
  const __nv_bfloat162 factor = __float2bfloat162_rn(kValueScale);
  const __nv_bfloat162 scaled = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&pair), factor);
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(&scaled);
  return pack_half(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

// Starts the products of a block of rows of a head, whose factors begin at `factors`.
template <class S, int kBlock>
__device__ __forceinline__ void start_block(Sums<S>& y, const Values<S>& x, uint64_t factors) {
  begin_products();
#pragma unroll
  for (int step = kBlock * S::kBlockSteps; step < S::kSteps; ++step) {
    const uint64_t rows = factors + (S::step_at(step) + kBlock * S::kN * S::kRowBytes) / 16;
#pragma unroll
    for (int m = 0; m < S::kM; ++m) warpgroup_multiply_f16(y[m], x[m][step], rows, step != kBlock * S::kBlockSteps);
  }
  commit_products();
}

// Adds the squares of a finished block. c: of the thread's columns of the block.
template <class S>
__device__ __forceinline__ void add_squares(Sums<S>& y, const float4 (&c)[S::kN / 16], float (&sum)[S::kM][2][2]) {
#pragma unroll
  for (int m = 0; m < S::kM; ++m) products_written(y[m]);
#pragma unroll
  for (int j = 0; j < S::kN / 16; ++j) {
    const float columns[4] = {c[j].x, c[j].y, c[j].z, c[j].w};
#pragma unroll
    for (int i = 0; i < 8; ++i)  // bits of i: column / 8, row / 8, column
#pragma unroll
      for (int m = 0; m < S::kM; ++m) {
        const float e = y[m][8 * j + i] - columns[i / 4 * 2 + i % 2];
        sum[m][i / 2 % 2][i % 2] = fmaf(e, e, sum[m][i / 2 % 2][i % 2]);
      }
  }
}

// What is behind the last block of a head: nothing.
struct NothingBehind {
  static constexpr bool kProducts = false;
  template <class Y>
  __device__ void operator()(Y&) const {}
};

// Finishes the block at place I of a head and starts the one two places behind: its products run beside the squares of
// the next. c: of the head; `factors`: its factors. behind(y) starts one group of products behind the last block, where
// it has any.
template <class S, int I, class Behind>
__device__ __forceinline__ void take_turn(Sums<S>& y, const Values<S>& x, const float4* c, uint64_t factors,
                                          float (&sum)[S::kM][2][2], const Behind& behind) {
  float4 columns[S::kN / 16];
#pragma unroll
  for (int j = 0; j < S::kN / 16; ++j) columns[j] = c[(S::block(I) * (S::kN / 16) + j) * 4];
  wait_products<(I + 1 < S::kBlocks || Behind::kProducts) ? 1 : 0>();
  add_squares<S>(y, columns, sum);
  if constexpr (I + 2 < S::kBlocks) start_block<S, S::block(I + 2)>(y, x, factors);
  if constexpr (I + 2 == S::kBlocks) behind(y);
}

// Adds the scaled squares of a head's norms. The products of `behind` are under way at the end, in y[0].
template <class S, class Behind, int... I>
__device__ __forceinline__ void square_norms(std::integer_sequence<int, I...>, Sums<S> (&y)[2], const Values<S>& x,
                                             const float4* c, uint64_t factors, float (&sum)[S::kM][2][2],
                                             const Behind& behind) {
  start_block<S, S::block(0)>(y[0], x, factors);
  start_block<S, S::block(1)>(y[1], x, factors);
  (take_turn<S, I>(y[I % 2], x, c, factors, sum, behind), ...);
}

#endif

}  // namespace restkv::gpu
