// Mode `after` with output factors by products of warps: norms of R_h (o_h - v_i) for all local positions. Devices of
// compute capability 9.0 have reconstruction_sm90a_gpu.cu.
//
// The difference e = o - v is taken in f32 and rounded to f16, as is R_h, after both were scaled by powers of two; the
// products are summed in f32. Rounding e and not v keeps the error at 2^-12 of each factor even where v is close to o,
// which is where the weight is large (tests: scores within 3.3e-4 of the largest of their row). f16 and not bf16: eight
// times the precision at the same speed. Norms that leave the range of f16 on either side are computed again in f32.
//
// A warp takes 16 kTiles positions at a time, for all query heads of their KV head: values come from memory once. The
// sum over d is a sum over pairs, and pairs may stand in any order if both factors use the same: one thread's four
// neighbouring elements stand for the columns 2t, 2t+1, 2t+8 and 2t+9 of a 16-wide step of the tensor cores.
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/gpu/softmax_weight.h"
#include "kvcache/gpu/squared_norms.h"
#include "kvcache/gpu/tensor_core.h"
#include "kvcache/scores/reconstruction_kernels.h"

namespace restkv::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kSharedBytes = 225 * 1024;  // one block per multiprocessor

template <int kD>
struct Shape {
  static constexpr int kTiles = kD == 64 ? 4 : kD == 128 ? 2 : 1;  // of 16 positions per warp
  static constexpr int kSteps = kD / 16;                           // of 16 columns
  static constexpr int kTogether = 4 / kTiles;                     // sets of 16 rows of R_h: eight chains of products
  // R_h is upper triangular: its rows 16 p to 16 p + 15 need the columns from 16 p on.
  static constexpr int kCells = kSteps * (kSteps + 1) / 2;
  static constexpr int kFactorBytes = kCells * 512;
  __host__ __device__ static constexpr int cell(int row, int step) {
    return row * kSteps - row * (row - 1) / 2 + step - row;
  }
  static constexpr int kHeadBytes = kFactorBytes + kD * 4;
  static constexpr int kRowBytes = kD * 2;
  static constexpr int kValueBytes = 16 * kTiles * kRowBytes;  // of a warp's positions
  static constexpr int kMostHeads = (kSharedBytes - kWarps * kValueBytes) / kHeadBytes;
};

struct Arguments : NormArguments {
  const uint4* factors;        // [Hq_lc][cells][32 lanes], see pack_factors_kernel
  const float* scales;         // [Hq_lc]: of a norm, over that of the scaled factors
  int heads_per_list, chunks;  // a list: query heads of one KV head whose factors are in shared memory together
};

// R_h in f16 in the order in which a warp multiplies it: cell (p, step) holds for lane 4 g + t the elements
// 16 step + 4 t + {0, 1, 2, 3} of the rows 16 p + g and 16 p + 8 + g. One block per head; `r` of it stays in registers.
template <int kD>
__global__ void __launch_bounds__(1024) pack_factors_kernel(const float* r, uint2* factors, float* scales) {
  constexpr int kVectors = kD * kD / 4, kPerThread = kVectors / 1024;
  __shared__ float high[32];
  const int h = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float4* from = reinterpret_cast<const float4*>(r + static_cast<int64_t>(h) * kD * kD);
  float4 x[kPerThread];
  float max = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    x[i] = from[i * 1024 + threadIdx.x];
    max = fmaxf(fmaxf(max, fmaxf(fabsf(x[i].x), fabsf(x[i].y))), fmaxf(fabsf(x[i].z), fabsf(x[i].w)));
  }
  max = warp_max(max);
  if (lane == 0) high[warp] = max;
  __syncthreads();
  max = warp_max(high[lane]);
  const int exponent = factor_exponent(max);
  const float scale = ldexpf(1.0f, kFactorExponent - exponent);
  if (threadIdx.x == 0) scales[h] = ldexpf(1.0f, exponent - kFactorExponent) / kValueScale;
  uint2* to = factors + static_cast<int64_t>(h) * Shape<kD>::kCells * 64;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int at = i * 1024 + threadIdx.x, row = at / (kD / 4), column = at % (kD / 4) * 4;
    const int p = row / 16, step = column / 16, target = row % 8 * 4 + column % 16 / 4;
    if (step < p) continue;
    to[(Shape<kD>::cell(p, step) * 32 + target) * 2 + row % 16 / 8] =
        make_uint2(pack_half(x[i].x * scale, x[i].y * scale), pack_half(x[i].z * scale, x[i].w * scale));
  }
}

// A warp's values in shared memory: 32-byte pieces of a row, one per step, stand in the place step ^ (row & 3), so that
// the rows that are read together lie in different banks.
template <int kD>
__device__ void fetch_values(const Arguments& p, int g, int64_t first, uint32_t values) {
  using S = Shape<kD>;
  constexpr int kChunks = kD / 8;
  const int last = static_cast<int>(min(p.L_lc - 1 - first, int64_t{16 * S::kTiles}));
  const __nv_bfloat16* from = p.v + first * p.v_ld + g * kD;
#pragma unroll 2
  for (int i = threadIdx.x % 32; i < 16 * S::kTiles * kChunks; i += 32) {
    const int row = i / kChunks, chunk = i % kChunks;
    copy_async16(values + row * S::kRowBytes + (chunk / 2 ^ (row & 3)) * 32 + chunk % 2 * 16,
                 from + min(row, last) * p.v_ld + chunk * 8, true);
  }
}

// Two scaled elements of e in f16. A bf16 is the upper half of an f32.
__device__ inline uint32_t difference(uint32_t values, float o0, float o1) {
  return pack_half(fmaf(__uint_as_float(values << 16), -kValueScale, o0),
                   fmaf(__uint_as_float(values & 0xffff0000u), -kValueScale, o1));
}

// One step of e for a warp's positions.
template <int kD>
__device__ void make_differences(const unsigned char* values, const float* o, int step,
                                 uint32_t (&e)[Shape<kD>::kTiles][Shape<kD>::kSteps][4]) {
  using S = Shape<kD>;
  const int lane = threadIdx.x % 32;
  const float4 x = *reinterpret_cast<const float4*>(o + step * 16 + lane % 4 * 4);
  const unsigned char* piece = values + (step ^ (lane / 4 & 3)) * 32;
#pragma unroll
  for (int m = 0; m < S::kTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint2 v = *reinterpret_cast<const uint2*>(piece + (m * 16 + half * 8) * S::kRowBytes);
      e[m][step][half] = difference(v.x, x.x, x.y);
      e[m][step][half + 2] = difference(v.y, x.z, x.w);
    }
}

// Scaled squared norms of a warp's positions for one head: sum[m][half] over this thread's columns. From the last rows
// of R_h up, so that each needs one more step of e: its making goes on beside the products. `used` is called when the
// values have been read.
template <int kD, class Used>
__device__ void squared_norms(const unsigned char* values, const float* o, const uint4* factors,
                              float (&sum)[Shape<kD>::kTiles][2], Used&& used) {
  using S = Shape<kD>;
  const int lane = threadIdx.x % 32;
  const unsigned char* mine = values + lane / 4 * S::kRowBytes + lane % 4 * 8;
  uint32_t e[S::kTiles][S::kSteps][4];
#pragma unroll
  for (int m = 0; m < S::kTiles; ++m) sum[m][0] = sum[m][1] = 0.0f;
#pragma unroll
  for (int top = S::kSteps - 1; top >= 0; top -= S::kTogether) {
#pragma unroll
    for (int i = 0; i < S::kTogether; ++i) make_differences<kD>(mine, o, top - i, e);
    if (top < S::kTogether) used();
    float y[S::kTogether][S::kTiles][2][4] = {};
#pragma unroll
    for (int step = S::kSteps - 1; step > top - S::kTogether; --step)
#pragma unroll
      for (int i = 0; i < S::kTogether; ++i) {
        const int row = top - i;
        if (step < row) continue;
        const uint4 b = factors[S::cell(row, step) * 32 + lane];
#pragma unroll
        for (int m = 0; m < S::kTiles; ++m) {
          multiply_f16(y[i][m][0], e[m][step], b.x, b.y);
          multiply_f16(y[i][m][1], e[m][step], b.z, b.w);
        }
      }
#pragma unroll
    for (int i = 0; i < S::kTogether; ++i)
#pragma unroll
      for (int m = 0; m < S::kTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            sum[m][half] = fmaf(y[i][m][n][2 * half], y[i][m][n][2 * half], sum[m][half]);
            sum[m][half] = fmaf(y[i][m][n][2 * half + 1], y[i][m][n][2 * half + 1], sum[m][half]);
          }
  }
}

// The scores that a lane writes: set i of eight positions, for i = lane % 4, + 4, ...
template <int kD>
struct Scores {
  static constexpr int kSets = 2 * Shape<kD>::kTiles, kPerLane = (kSets + 3) / 4;
  float a[kPerLane], scale;

  __device__ static int64_t position(int64_t first, int n) {
    const int lane = threadIdx.x % 32;
    return first + (n * 4 + lane % 4) * 8 + lane / 4;
  }
  __device__ static bool valid(const Arguments& p, int64_t first, int n) {
    return n * 4 + static_cast<int>(threadIdx.x % 4) < kSets && position(first, n) < p.L_lc;
  }

  // Well before they are needed.
  __device__ void load(const Arguments& p, int h, int64_t first) {
    scale = __ldg(p.scales + h);
#pragma unroll
    for (int n = 0; n < kPerLane; ++n)
      a[n] = valid(p, first, n) ? __ldg(p.a + h * p.stride + position(first, n)) : 0.0f;
  }

  // Adds the four threads' parts and writes the scores.
  __device__ void finish(const Arguments& p, int g, int h, int64_t first, const float (&sum)[Shape<kD>::kTiles][2]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kPerLane; ++n) {
      float mine = 0.0f;
#pragma unroll
      for (int i = 0; i < 4 && n * 4 + i < kSets; ++i) {
        float x = sum[(n * 4 + i) / 2][i % 2];
        x += __shfl_xor_sync(0xffffffffu, x, 1);
        x += __shfl_xor_sync(0xffffffffu, x, 2);
        if (lane % 4 == i) mine = x;
      }
      float norm = sqrtf(mine) * scale;
      const bool here = valid(p, first, n);
      unsigned outside = __ballot_sync(0xffffffffu, here && !(mine >= kSmallestNorm && mine < INFINITY));
#pragma unroll 1
      for (; outside != 0; outside &= outside - 1) {
        const int source = __ffs(outside) - 1;
        const int64_t at = __shfl_sync(0xffffffffu, position(first, n), source);
        const float exact =
            exact_squared_norm(p.r + static_cast<int64_t>(h) * kD * kD, p.o + h * kD, p.v + at * p.v_ld + g * kD, kD);
        if (lane == source) norm = sqrtf(exact);
      }
      if (p.tau != 1.0f) norm = powf(norm, p.tau);
      if (here) p.s[h * p.stride + position(first, n)] = odds(a[n]) * norm;
    }
  }
};

template <int kD>
__global__ void __launch_bounds__(kThreads, 1) reconstruction_kernel(Arguments p) {
  using S = Shape<kD>;
  constexpr int kPositions = 16 * S::kTiles;
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32;
  unsigned char* values = shared + warp * S::kValueBytes;
  const uint32_t values_address = shared_address(values);
  uint4* factors = reinterpret_cast<uint4*>(shared + kWarps * S::kValueBytes);
  float* o = reinterpret_cast<float*>(factors + p.heads_per_list * S::kCells * 32);
  // All tiles of all lists, cut evenly: a block works on one list after another.
  const int64_t tiles = (p.L_lc + kPositions - 1) / kPositions, all = tiles * p.heads.Hkv_lc * p.chunks;
  int64_t at = all * blockIdx.x / gridDim.x;
  const int64_t end = all * (blockIdx.x + 1) / gridDim.x;
  while (at < end) {
    const int list = static_cast<int>(at / tiles), g = list / p.chunks, chunk = list % p.chunks;
    const int64_t first_tile = at % tiles;
    const int count = static_cast<int>(min(end - at, tiles - first_tile));
    const int first_head = p.heads.first(g) + chunk * p.heads_per_list;
    const int heads = min(p.heads_per_list, p.heads.count(g) - chunk * p.heads_per_list);
    at += count;
    if (heads <= 0) continue;
    if (warp < count) fetch_values<kD>(p, g, (first_tile + warp) * kPositions, values_address);
    __syncthreads();  // nobody works with the factors of the list before
    const uint4* from = p.factors + static_cast<int64_t>(first_head) * S::kCells * 32;
    for (int i = threadIdx.x; i < heads * S::kCells * 32; i += kThreads)
      copy_async16(shared_address(factors + i), from + i, true);
    for (int i = threadIdx.x; i < heads * kD; i += kThreads) o[i] = p.o[first_head * kD + i] * kValueScale;
    wait_copies();
    __syncthreads();
    for (int tile = warp; tile < count; tile += kWarps) {
      const int64_t first = (first_tile + tile) * kPositions;
      wait_copies();
      __syncwarp();
#pragma unroll 1
      for (int h = 0; h < heads; ++h) {
        Scores<kD> scores;
        scores.load(p, first_head + h, first);
        float sum[S::kTiles][2];
        squared_norms<kD>(values, o + h * kD, factors + h * S::kCells * 32, sum, [&] {
          if (h + 1 < heads || tile + kWarps >= count) return;
          __syncwarp();
          fetch_values<kD>(p, g, first + kWarps * kPositions, values_address);
        });
        scores.finish(p, g, first_head + h, first, sum);
      }
    }
  }
}

template <int kD>
void launch(Context& ctx, const NormArguments& arguments, int group) {
  using S = Shape<kD>;
  Arguments p{arguments, nullptr, nullptr, 0, 0};
  Tensor factors = ctx.empty(DType::u8, {p.heads.Hq_lc, S::kFactorBytes});
  Tensor scales = ctx.empty(DType::f32, {p.heads.Hq_lc});
  p.factors = static_cast<const uint4*>(factors.raw());
  p.scales = scales.data<float>();
  pack_factors_kernel<kD>
      <<<p.heads.Hq_lc, 1024, 0, stream_of(ctx)>>>(p.r, static_cast<uint2*>(factors.raw()), scales.data<float>());
  RESTKV_KERNEL_CHECK();
  p.chunks = (group + S::kMostHeads - 1) / S::kMostHeads;
  p.heads_per_list = (group + p.chunks - 1) / p.chunks;
  const int bytes = kWarps * S::kValueBytes + p.heads_per_list * S::kHeadBytes;
  auto kernel = reconstruction_kernel<kD>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const int64_t useful = blocks_for(p.L_lc, 16 * S::kTiles * kWarps) * int64_t{p.heads.Hkv_lc * p.chunks};
  kernel<<<static_cast<unsigned>(std::min<int64_t>(ctx.gpu()->multiprocessors(), useful)), kThreads, bytes,
           stream_of(ctx)>>>(p);
  RESTKV_KERNEL_CHECK();
}

}  // namespace

void reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* o, const MatrixView& v, const float* r, double tau, float* s) {
  reconstruction_after(ctx, heads, shard, a, o, v, r, tau, s, NormKernel::fastest);
}

void reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* o, const MatrixView& v, const float* r, double tau, float* s,
                          NormKernel kernel) {
  if (shard.L_lc == 0 || heads.Hq_lc() == 0) return;
  const int64_t d = heads.d;
  const bool tensor_cores = r != nullptr && v.dtype == DType::bf16 && (d == 64 || d == 128 || d == 256) &&
                            aligned_rows(v, 16) && reinterpret_cast<uintptr_t>(r) % 16 == 0;
  RESTKV_CHECK(tensor_cores || kernel == NormKernel::fastest,
               "reconstruction_after: no tensor-core kernel for {} of {}", name_of(v.dtype), d);
  if (!tensor_cores) return plain_reconstruction_after(ctx, heads, shard, a, o, v, r, tau, s);
  const NormArguments p{{head_map(heads), shard.L_lc, shard.stride, v.ld, a, o,
                         static_cast<const __nv_bfloat16*>(v.data), r, static_cast<float>(tau), s}};
  const int group = largest_group(heads);
  // Nothing that depends on the layout may choose the kernel: scores are the same bits on all.
  if (kernel == NormKernel::fastest ? has_warpgroups() : kernel != NormKernel::warps)
    return warpgroup_norms(ctx, p, group);
  if (d == 64) return launch<64>(ctx, p, group);
  if (d == 128) return launch<128>(ctx, p, group);
  launch<256>(ctx, p, group);
}

}  // namespace restkv::gpu
