// Mode `after` with output factors by products of warpgroups: norms of R_h (o_h - v_i) for all local positions.
//
// y = R_h v_i is summed in f32 from f16 factors, and c = R_h o_h, from the same rounded R_h, is subtracted before
// anything is squared: R_h alone is rounded (to 2^-12 of each element; a bf16 value in the range of f16 is exact), and
// values are converted once for all query heads of their KV head. The error of y is some 2^-21 of |R_h| |v|, so where
// v is so close to o that this would show the norm is computed again in f32 from the difference, and so are norms that
// leave the range of f16 on either side. A row of a product depends on that row of the values alone: positions have
// the same bits wherever they lie.
//
// A warpgroup takes 64 kM positions at a time, for all query heads of their KV head; values wait in shared memory, then
// stay in registers. R_h is upper triangular: of its rows kN stand together as a block and need the columns from their
// first on. Two blocks are under way at a time, so that the squares of one are summed beside the products of the next.
//
// The sum over d is a sum in any order if both factors use the same: in a run of 32 columns one thread's eight
// neighbouring elements stand for the columns 2t, 2t+1, 2t+8 and 2t+9 of two 16-wide steps.
#include <utility>

#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_launch.h"
#include "kvcache/gpu/softmax_weight.h"
#include "kvcache/gpu/squared_norms.h"
#include "kvcache/gpu/tensor_core.h"
#include "kvcache/gpu/warpgroup.h"
#include "kvcache/scores/reconstruction_kernels.h"

namespace restkv::gpu {
namespace {

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

// Per head: what a norm is multiplied by, and the smallest scaled squared norm that is good enough.
using HeadLimits = float2;

struct Arguments : NormArguments {
  const unsigned char* factors;  // [Hq_lc][kHeadBytes], see pack_kernel
  const HeadLimits* limits;
  int heads_per_list, chunks;  // a list: query heads of one KV head whose factors are in shared memory together
};

// Place of column n of c [d] as a float: a thread reads its columns of 16 as one vector.
__device__ inline int place_of_column(int n) { return n / 16 * 16 + n % 8 / 2 * 4 + n % 16 / 8 * 2 + n % 2; }

// R_h in f16 in the order in which it is multiplied, c, and the limits. One block per head.
template <class S>
__global__ void __launch_bounds__(1024)
    pack_kernel(const float* r, const float* o, unsigned char* factors, HeadLimits* limits) {
  constexpr int kD = S::kD, kVectors = kD * kD / 4, kPerThread = kVectors / 1024, kLanes = kD / 4;
  __shared__ float scratch[32], part[kD][2];
  let_next_start();
  const int h = blockIdx.x, lane = threadIdx.x % 32;
  const float4* from = reinterpret_cast<const float4*>(r + static_cast<int64_t>(h) * kD * kD);
  const int column = static_cast<int>(threadIdx.x) % kLanes * 4;
  const float* start = o + h * kD + column;
  const float o4[4] = {start[0] * kValueScale, start[1] * kValueScale, start[2] * kValueScale, start[3] * kValueScale};
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
  unsigned char* to = factors + static_cast<int64_t>(h) * S::kHeadBytes;
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
  const float* all = o + h * kD;
  float length = threadIdx.x < kD ? all[threadIdx.x] * kValueScale : 0.0f;
  length = block_sum(length * length, scratch);
  if (threadIdx.x < kD) {
    const int n = static_cast<int>(threadIdx.x);
    float* c = reinterpret_cast<float*>(to + S::kFactorBytes);
    c[place_of_column(n)] = kLanes > 32 ? part[n][0] + part[n][1] : part[n][0];
  }
  if (threadIdx.x == 0)
    limits[h] = {ldexpf(1.0f, exponent - kFactorExponent) / kValueScale,
                 fmaxf(kSmallestNorm, kNearest * factor_squares * length)};
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

// A thread fetches what it reads itself, so no thread waits for another.
template <class S>
__device__ __forceinline__ void fetch_values(const Arguments& p, int g, int64_t first, uint32_t values) {
  const __nv_bfloat16* from = p.v + g * S::kD + threadIdx.x % 4 * 8;
#pragma unroll
  for (int i = 0; i < 2 * S::kM; ++i) {
    const int64_t position = min(first + first_row() + i / 2 * 64 + i % 2 * 8, p.L_lc - 1);
#pragma unroll
    for (int run = 0; run < S::kRuns; ++run)
      copy_async16(values + (i * S::kRuns + run) * S::kThreads * 16, from + position * p.v_ld + run * 32, true);
  }
}

// Two bf16, scaled, in f16. A bf16 is the upper half of an f32.
__device__ inline uint32_t convert(uint32_t pair) {
  const __nv_bfloat162 factor = __float2bfloat162_rn(kValueScale);
  const __nv_bfloat162 scaled = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&pair), factor);
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(&scaled);
  return pack_half(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

template <class S>
__device__ __forceinline__ void read_values(const uint4* values, Values<S>& x) {
#pragma unroll
  for (int i = 0; i < 2 * S::kM; ++i)
#pragma unroll
    for (int run = 0; run < S::kRuns; ++run) {
      const uint4 v = values[(i * S::kRuns + run) * S::kThreads];
      x[i / 2][2 * run][i % 2] = convert(v.x);
      x[i / 2][2 * run][i % 2 + 2] = convert(v.y);
      x[i / 2][2 * run + 1][i % 2] = convert(v.z);
      x[i / 2][2 * run + 1][i % 2 + 2] = convert(v.w);
    }
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

// The attention weights of head `head` + lane % 4, well before they are needed.
template <class S>
__device__ __forceinline__ void load_weights(const Arguments& p, int head, int heads_left, int64_t first,
                                             PerRow<S>& weight) {
  const bool there = static_cast<int>(threadIdx.x % 4) < heads_left;
  const float* a = p.a + (head + static_cast<int64_t>(threadIdx.x % 4)) * p.stride;
#pragma unroll
  for (int i = 0; i < 2 * S::kM; ++i) {
    const int64_t position = first + first_row() + i / 2 * 64 + i % 2 * 8;
    weight[i / 2][i % 2] = there && position < p.L_lc ? __ldg(a + position) : 0.0f;
  }
}

// Writes the scores of the heads from `head` on, one per thread of four, from their scaled squared norms.
template <class S>
__device__ __forceinline__ void write_scores(const Arguments& p, int g, int head, int heads_left, int64_t first,
                                             const PerRow<S>& squared, const PerRow<S>& weight) {
  const bool there = static_cast<int>(threadIdx.x % 4) < heads_left;
  const int h = head + (there ? static_cast<int>(threadIdx.x % 4) : 0);
  const HeadLimits limits = __ldg(p.limits + h);
#pragma unroll
  for (int i = 0; i < 2 * S::kM; ++i) {
    const int64_t position = first + first_row() + i / 2 * 64 + i % 2 * 8;
    const float x = squared[i / 2][i % 2];
    float norm = sqrtf(x) * limits.x;
    const bool here = there && position < p.L_lc;
    unsigned outside = __ballot_sync(0xffffffffu, here && !(x >= limits.y && x < INFINITY));
#pragma unroll 1
    for (; outside != 0; outside &= outside - 1) {
      const int source = __ffs(static_cast<int>(outside)) - 1;
      const int64_t at = __shfl_sync(0xffffffffu, position, source);
      const int of = __shfl_sync(0xffffffffu, h, source);
      const float exact = exact_squared_norm(p.r + static_cast<int64_t>(of) * S::kD * S::kD, p.o + of * S::kD,
                                             p.v + at * p.v_ld + g * S::kD, S::kD);
      if (static_cast<int>(threadIdx.x % 32) == source) norm = sqrtf(exact);
    }
    if (p.tau != 1.0f) norm = powf(norm, p.tau);
    if (here) p.s[h * p.stride + position] = odds(weight[i / 2][i % 2]) * norm;
  }
  __syncwarp();
}

// Finishes the block at place I of a head and starts the one two places behind: its products run beside the squares of
// the next. c: of the head; `factors`: its factors.
template <class S, int I>
__device__ __forceinline__ void take_turn(Sums<S>& y, const Values<S>& x, const float4* c, uint64_t factors,
                                          float (&sum)[S::kM][2][2]) {
  float4 columns[S::kN / 16];
#pragma unroll
  for (int j = 0; j < S::kN / 16; ++j) columns[j] = c[(S::block(I) * (S::kN / 16) + j) * 4];
  wait_products<I + 1 < S::kBlocks ? 1 : 0>();
  add_squares<S>(y, columns, sum);
  if constexpr (I + 2 < S::kBlocks) start_block<S, S::block(I + 2)>(y, x, factors);
}

// Adds the scaled squares of a head's norms.
template <class S, int... I>
__device__ __forceinline__ void square_norms(std::integer_sequence<int, I...>, const Values<S>& x, const float4* c,
                                             uint64_t factors, float (&sum)[S::kM][2][2]) {
  Sums<S> y[2];
  start_block<S, S::block(0)>(y[0], x, factors);
  start_block<S, S::block(1)>(y[1], x, factors);
  (take_turn<S, I>(y[I % 2], x, c, factors, sum), ...);
}

// All heads of a list for the tile at `first`, whose values are x. `shared`: factors and c of the first head.
template <class S>
__device__ __forceinline__ void score_tile(const Arguments& p, int g, int first_head, int heads, int64_t first,
                                           const unsigned char* shared, const Values<S>& x) {
  uint64_t factors = matrix_descriptor(shared_address(shared), S::kPieceBytes, 2 * S::kPieceBytes);
  PerRow<S> squared = {}, weight;
#pragma unroll 1
  for (int h = 0; h < heads; ++h) {
    if (h % 4 == 0) load_weights<S>(p, first_head + h, heads - h, first, weight);
    const float4* c = reinterpret_cast<const float4*>(shared + h * S::kHeadBytes + S::kFactorBytes) + threadIdx.x % 4;
    float sum[S::kM][2][2] = {};
    square_norms<S>(std::make_integer_sequence<int, S::kBlocks>{}, x, c, factors, sum);
    factors += S::kHeadBytes / 16;
#pragma unroll
    for (int i = 0; i < 2 * S::kM; ++i) {
      float all = sum[i / 2][i % 2][0] + sum[i / 2][i % 2][1];
      all += __shfl_xor_sync(0xffffffffu, all, 1);
      all += __shfl_xor_sync(0xffffffffu, all, 2);
      if (static_cast<int>(threadIdx.x % 4) == h % 4) squared[i / 2][i % 2] = all;
    }
    if (h % 4 == 3 || h + 1 == heads)
      write_scores<S>(p, g, first_head + h / 4 * 4, heads - h / 4 * 4, first, squared, weight);
  }
}

// All tiles of all lists are cut evenly: a block works on one list after another.
template <class S>
__device__ void score_tiles(const Arguments& p, unsigned char* shared) {
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);  // known to be uniform
  unsigned char* factors = shared;
  uint4* values = reinterpret_cast<uint4*>(shared + p.heads_per_list * S::kHeadBytes) + threadIdx.x;
  const uint32_t values_address = shared_address(values);
  const int64_t tiles = (p.L_lc + S::kPositions - 1) / S::kPositions, all = tiles * p.heads.Hkv_lc * p.chunks;
  int64_t at = all * blockIdx.x / gridDim.x;
  const int64_t end = all * (blockIdx.x + 1) / gridDim.x;
  Values<S> x;
  bool waited = false;
  while (at < end) {
    const int list = static_cast<int>(at / tiles), g = list / p.chunks, chunk = list % p.chunks;
    const int64_t first = at % tiles * S::kPositions;
    const int count = static_cast<int>(min(end - at, tiles - at % tiles));
    const int first_head = p.heads.first(g) + chunk * p.heads_per_list;
    const int heads = min(p.heads_per_list, p.heads.count(g) - chunk * p.heads_per_list);
    at += count;
    if (heads <= 0) continue;
    if (warpgroup < count) fetch_values<S>(p, g, first + warpgroup * S::kPositions, values_address);
    if (!waited) wait_for_previous();  // of earlier kernels only pack_kernel has still been running
    waited = true;
    __syncthreads();  // nobody works with the factors of the list before
    const unsigned char* from = p.factors + static_cast<int64_t>(first_head) * S::kHeadBytes;
    for (int i = static_cast<int>(threadIdx.x) * 16; i < heads * S::kHeadBytes; i += S::kThreads * 16)
      copy_async16(shared_address(factors + i), from + i, true);
    wait_copies();
    show_to_products();
    __syncthreads();
    for (int tile = warpgroup; tile < count; tile += S::kWarpgroups) {
      wait_copies();
      read_values<S>(values, x);
      const int64_t here = first + static_cast<int64_t>(tile) * S::kPositions;
      if (tile + S::kWarpgroups < count) fetch_values<S>(p, g, here + S::kWarpgroups * S::kPositions, values_address);
      score_tile<S>(p, g, first_head, heads, here, factors, x);
    }
  }
  if (!waited) wait_for_previous();  // so that the kernel does not end before the one in front of it
}

#endif

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) norms_kernel(const __grid_constant__ Arguments p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(128) unsigned char shared[];
  score_tiles<S>(p, shared);
#endif
}

// Tells which code of this file the device has loaded: it needs static shared memory where products of warpgroups are.
__global__ void probe_kernel(int* never) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ int mark[32];
  mark[threadIdx.x % 32] = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (never != nullptr) *never = mark[(threadIdx.x + 1) % 32];
#endif
}

template <class S>
void launch(Context& ctx, const NormArguments& arguments, int group) {
  Arguments p{arguments, nullptr, nullptr, 0, 0};
  Tensor factors = ctx.empty(DType::u8, {p.heads.Hq_lc, S::kHeadBytes});
  Tensor limits = ctx.empty(DType::f32, {p.heads.Hq_lc, 2});
  p.factors = static_cast<const unsigned char*>(factors.raw());
  p.limits = static_cast<const HeadLimits*>(limits.raw());
  p.chunks = (group + S::kMostHeads - 1) / S::kMostHeads;
  p.heads_per_list = (group + p.chunks - 1) / p.chunks;
  const int bytes = p.heads_per_list * S::kHeadBytes + S::kValueBytes;
  auto kernel = norms_kernel<S>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  pack_kernel<S><<<p.heads.Hq_lc, 1024, 0, stream_of(ctx)>>>(p.r, p.o, static_cast<unsigned char*>(factors.raw()),
                                                             static_cast<HeadLimits*>(limits.raw()));
  RESTKV_KERNEL_CHECK();
  const int64_t useful =
      blocks_for(p.L_lc, static_cast<int64_t>(S::kPositions) * S::kWarpgroups) * int64_t{p.heads.Hkv_lc * p.chunks};
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(ctx.gpu()->multiprocessors(), useful));
  launch_dependent(kernel, dim3(blocks), dim3(S::kThreads), static_cast<size_t>(bytes), stream_of(ctx), p);
}

}  // namespace

bool has_warpgroup_norms() {
  cudaFuncAttributes attributes{};
  RESTKV_CUDA_CHECK(cudaFuncGetAttributes(&attributes, probe_kernel));
  return attributes.sharedSizeBytes >= 32 * sizeof(int);
}

void warpgroup_norms(Context& ctx, const NormArguments& p, int group) {
  RESTKV_CHECK(has_warpgroup_norms(), "norms by warpgroups: the device or the build has none (sm_90a)");
  if (p.heads.d == 64) return launch<Shape<64, 32, 2, 3>>(ctx, p, group);
  if (p.heads.d == 256) return launch<Shape<256, 32, 1, 2>>(ctx, p, group);
  launch<Shape<128, 32, 2, 3>>(ctx, p, group);
}

}  // namespace restkv::gpu
