// Mode `before` with output factors by products of warpgroups: for all local positions and all W window rows
// D = ||R_h (o_w - v_i)||, weighed and added over the rows at once.
//
// With c the mean of the window's outputs, y = R_h v_i and t_w = R_h (o_w - c),
//   D^2 = ||y - R_h c||^2 - 2 t_w . (y - R_h c) + ||t_w||^2 = N_i - 2 v_i . u_w + K_w,
// where u_w = R_h^T t_w and K_w = ||t_w||^2 + 2 (R_h c) . t_w are known beforehand. N_i comes from products with the
// rows of R_h as in mode `after` (reconstruction_sm90a_gpu.cu), v_i . u_w from products with 32 rows u_w at a time,
// each the sum of two f16 (22 bits). One R_h, rounded to f16, is in all of it, so that D^2 is a square but for the
// errors of the sums: those of y are some 2^-21 of |R_h| |v_i| and those of v_i . u_w 2^-21 of |u_w| |v_i| <= 2^-21
// |R_h| |t_w| |v_i|
// (|R_h|: of all its elements), K_w is good to 2^-23 of |R_h| |c| |t_w|, and together
//   |error of D^2| <= 2^-20 |R_h| (|v_i| + |c|) (sqrt(N_i) + |t_w|).
// Where the smallest D^2 of a position is not 2^10 times that (v close to some output: rare, and where the weight may
// be large) the position is marked, and computed again by plain arithmetic, which subtracts before it squares. So D is
// good to 2^-11, beside the rounding of R_h (2^-12 of each element). The same test finds what leaves the range of f16.
// It looks at one position alone: marks do not depend on the layout, nor do the bits of the sums.
//
// A warpgroup takes 64 kM positions for all query heads of a list; their values stay in registers. A thread then has
// eight rows of the window for each of its positions; what the four threads of a position have is added at the end.
// The logits of a warp's positions come to shared memory while its products with R_h are under way.
#include "dist/base/error.h"
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/scores/before_window.h"
#include "kvcache/scores/reconstruction_kernels.h"

// Some constants are used only where the compiler is at code for sm_90a.
#pragma nv_diag_suppress 177

namespace restkv::gpu {
namespace {

constexpr float kLeastShare = 1.0f / (1 << 10);  // see above

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ inline float sqrt_approximate(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of a normal number: none of the steps that divisions take for others.
__device__ inline float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The thread's part of the values of a tile, as the products take them.
template <class S>
__device__ __forceinline__ void load_values(const BeforeProducts& p, int g, int64_t first, Values<S>& x) {
  const __nv_bfloat16* from = p.v + g * S::kD + threadIdx.x % 4 * 8;
#pragma unroll
  for (int i = 0; i < 2 * S::kM; ++i) {
    const int64_t position = min(first + first_row() + i / 2 * 64 + i % 2 * 8, p.L_lc - 1);
#pragma unroll
    for (int run = 0; run < S::kRuns; ++run) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(from + position * p.v_ld + run * 32));
      x[i / 2][2 * run][i % 2] = convert(v.x);
      x[i / 2][2 * run][i % 2 + 2] = convert(v.y);
      x[i / 2][2 * run + 1][i % 2] = convert(v.z);
      x[i / 2][2 * run + 1][i % 2 + 2] = convert(v.w);
    }
  }
}

// Brings the values of a tile of the warpgroup nearer, to the L2 cache.
template <class S>
__device__ __forceinline__ void prefetch_values(const BeforeProducts& p, int g, int64_t first) {
  const int64_t position = first + threadIdx.x % 128;
  if (threadIdx.x % 128 >= S::kPositions || position >= p.L_lc) return;
  const __nv_bfloat16* from = p.v + position * p.v_ld + g * S::kD;
#pragma unroll
  for (int k = 0; k < S::kD; k += 64) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + k));
}

// The sum over the four threads of a position.
__device__ __forceinline__ float sum_of_four(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float least_of_four(float x) {
  x = fminf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fminf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
// Of the thread's positions the one that it answers for.
template <class S>
__device__ __forceinline__ float own(const PerRow<S>& x) {
  float mine = 0.0f;
#pragma unroll
  for (int i = 0; i < 2 * S::kM; ++i)
    if (static_cast<int>(threadIdx.x % 4) == i) mine = x[i / 2][i % 2];
  return mine;
}

// The length of the scaled values of the position that the thread answers for.
template <class S>
__device__ __forceinline__ float own_length(const Values<S>& x) {
  PerRow<S> sum = {};
#pragma unroll
  for (int m = 0; m < S::kM; ++m)
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&x[m][step][i]));
        sum[m][i % 2] = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, sum[m][i % 2]));
      }
#pragma unroll
  for (int i = 0; i < 2 * S::kM; ++i) sum[i / 2][i % 2] = sum_of_four(sum[i / 2][i % 2]);
  return sqrtf(own<S>(sum));
}

// The logits of a warp's positions for 32 rows of head h, on their way.
template <class S>
__device__ __forceinline__ void fetch_logits(const BeforeProducts& p, int h, int window, int64_t first, uint32_t to) {
  constexpr int kChunks = 4 * S::kM;  // of four positions
  const int lane = static_cast<int>(threadIdx.x) % 32, chunk = lane % kChunks;
  const int64_t position = first + chunk / 4 * 64 + static_cast<int64_t>(threadIdx.x % 128 / 32) * 16 + chunk % 4 * 4;
  const bool there = position < p.stride;
  const int row = lane / kChunks, w0 = window * kWindowRows + row;
  const float* from = p.logits + (static_cast<int64_t>(h) * p.W + w0) * p.stride + (there ? position : 0);
  to += (row * Window<S>::kPitch + chunk * 4) * 4;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    constexpr int kStep = 32 / kChunks;  // rows
    const bool valid = there && w0 + i * kStep < p.W;
    copy_async16(to + i * kStep * Window<S>::kPitch * 4, valid ? from + i * kStep * p.stride : p.logits, valid);
  }
  commit_copies();
}

// Starts the products v_i . u_w of 32 rows.
template <class S>
__device__ __forceinline__ void start_window(Sums<S>& y, const Values<S>& x, uint64_t rows) {
  begin_products();
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step)
#pragma unroll
      for (int m = 0; m < S::kM; ++m)
        warpgroup_multiply_f16(y[m], x[m][step],
                               rows + (half * Window<S>::kHalfBytes + step * Window<S>::kStepBytes) / 16,
                               half + step != 0);
  commit_products();
}
template <class S>
struct StartWindow {
  static constexpr bool kProducts = true;
  const Values<S>& x;
  uint64_t rows;
  __device__ __forceinline__ void operator()(Sums<S>& y) const { start_window<S>(y, x, rows); }
};

// Adds 32 rows to the scores of the thread's positions. N: see above; least: the smallest D^2.
template <class S>
__device__ __forceinline__ void add_rows(const Sums<S>& y, const unsigned char* window, const float* logits,
                                         const PerRow<S>& N, PerRow<S>& score, PerRow<S>& least) {
  const int t = static_cast<int>(threadIdx.x) % 4 * 2, q = static_cast<int>(threadIdx.x) % 32 / 4;
  const RowConstants* constants = reinterpret_cast<const RowConstants*>(window + Window<S>::kRowsAt) + t;
  const RowWeight* weights = reinterpret_cast<const RowWeight*>(window + Window<S>::kWeightsAt) + t;
  logits += t * Window<S>::kPitch + q;
#pragma unroll
  for (int j = 0; j < kWindowRows / 8; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const RowConstants row = constants[8 * j + e];
      const float share = weights[8 * j + e].x;
#pragma unroll
      for (int m = 0; m < S::kM; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float square = fmaf(y[m][4 * j + 2 * half + e], row.y, N[m][half] + row.x);
          least[m][half] = fminf(least[m][half], square);
          // As softmax_weight() and odds().
          const float x = logits[(8 * j + e) * Window<S>::kPitch + m * 16 + half * 8] - row.z;
          const float a = x >= -87.0f ? exp_term(x) * row.w : 0.0f;
          const float weight = a * reciprocal_approximate(fmaxf(1.0f - a, kSmallestRest));
          score[m][half] = fmaf(weight * share, sqrt_approximate(square), score[m][half]);
        }
    }
}

// Writes the scores of a head, one per thread, and marks those that are not good enough.
template <class S>
__device__ __forceinline__ void write_scores(const BeforeProducts& p, int h, int64_t first, float spread, float length,
                                             const PerRow<S>& N, PerRow<S>& score, PerRow<S>& least) {
#pragma unroll
  for (int i = 0; i < 2 * S::kM; ++i) {
    score[i / 2][i % 2] = sum_of_four(score[i / 2][i % 2]);
    least[i / 2][i % 2] = least_of_four(least[i / 2][i % 2]);
  }
  const int t = static_cast<int>(threadIdx.x) % 4, warp = static_cast<int>(threadIdx.x) % 128 / 32;
  const int64_t position = first + warp * 16 + Unsettled::offset(t, static_cast<int>(threadIdx.x) % 32 / 4);
  const bool here = t < 2 * S::kM && position < p.L_lc;
  const HeadLimits limits = __ldg(p.limits + h);
  // The 1 is for values that f16 rounds: those below 2^-14 to multiples of 2^-24.
  const float bound = kLeastShare * limits.z * (length + limits.w + 1.0f) * (sqrtf(own<S>(N)) + spread);
  const bool good = own<S>(least) > bound;  // not where anything is not a number
  if (here) p.s[h * p.stride + position] = own<S>(score);
  const uint32_t word = __ballot_sync(0xffffffffu, here && !good);
  if (threadIdx.x % 32 == 0) p.marks.words[h * p.marks.words_per_head + first / S::kPositions * 4 + warp] = word;
}

// What a block has in shared memory: the heads of a list, their largest |t_w|, and the logits of each warp.
struct Memory {
  unsigned char* heads;
  float* spread;
  float* logits;  // of the thread's warp
};

// All heads of a list for the tile at `first`, whose values are x.
template <class S>
__device__ __forceinline__ void score_tile(const BeforeProducts& p, int first_head, int heads, int64_t first,
                                           const Memory& memory, const Values<S>& x) {
  const float length = own_length<S>(x);
  const uint32_t logits = shared_address(memory.logits);
  const unsigned char* head = memory.heads;
#pragma unroll 1
  for (int i = 0; i < heads; ++i, head += p.head_bytes) {
    __syncwarp();  // all have read the logits of the head before
    fetch_logits<S>(p, first_head + i, 0, first, logits);
    const uint64_t factors = matrix_descriptor(shared_address(head), S::kPieceBytes, 2 * S::kPieceBytes);
    const unsigned char* window = head + S::kHeadBytes;
    const float4* c = reinterpret_cast<const float4*>(head + S::kFactorBytes) + threadIdx.x % 4;
    float sum[S::kM][2][2] = {};
    Sums<S> y[2];
    square_norms<S>(std::make_integer_sequence<int, S::kBlocks>{}, y, x, c, factors, sum,
                    StartWindow<S>{x, factors + S::kHeadBytes / 16});
    PerRow<S> N, score = {}, least;
#pragma unroll
    for (int n = 0; n < 2 * S::kM; ++n) {
      N[n / 2][n % 2] = sum_of_four(sum[n / 2][n % 2][0] + sum[n / 2][n % 2][1]);
      least[n / 2][n % 2] = INFINITY;
    }
#pragma unroll 1
    for (int of = 0;; ++of, window += Window<S>::kBytes) {
      wait_products<0>();
#pragma unroll
      for (int m = 0; m < S::kM; ++m) products_written(y[0][m]);
      wait_copies();
      __syncwarp();
      add_rows<S>(y[0], window, memory.logits, N, score, least);
      if (of + 1 == p.windows) break;
      __syncwarp();
      fetch_logits<S>(p, first_head + i, of + 1, first, logits);
      start_window<S>(y[0], x, factors + (S::kHeadBytes + (of + 1) * Window<S>::kBytes) / 16);
    }
    write_scores<S>(p, first_head + i, first, memory.spread[i], length, N, score, least);
  }
}

// The packed data of the heads of a list.
template <class S>
__device__ void load_heads(const BeforeProducts& p, int first_head, int heads, const Memory& memory) {
  __syncthreads();  // nobody works with the list before
  const unsigned char* from = p.packed + static_cast<int64_t>(first_head) * p.head_bytes;
  for (int i = static_cast<int>(threadIdx.x) * 16; i < heads * p.head_bytes; i += S::kThreads * 16)
    copy_async16(shared_address(memory.heads + i), from + i, true);
  wait_copies();
  show_to_products();
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < heads) {
    const unsigned char* window = memory.heads + static_cast<int>(threadIdx.x) * p.head_bytes + S::kHeadBytes;
    float spread = 0.0f;
    for (int w = 0; w < p.W; ++w)
      spread = fmaxf(spread, reinterpret_cast<const RowWeight*>(window + w / kWindowRows * Window<S>::kBytes +
                                                                Window<S>::kWeightsAt)[w % kWindowRows]
                                 .y);
    memory.spread[threadIdx.x] = spread;
  }
  __syncthreads();
}

// All tiles of all lists are cut evenly: a block works on one list after another.
template <class S>
__device__ void score_tiles(const BeforeProducts& p, unsigned char* shared) {
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);  // known to be uniform
  unsigned char* logits = shared + p.heads_per_list * p.head_bytes;
  const Memory memory{shared, reinterpret_cast<float*>(logits + Window<S>::kAllLogitBytes),
                      reinterpret_cast<float*>(logits + static_cast<int>(threadIdx.x) / 32 * Window<S>::kLogitBytes)};
  const int64_t tiles = (p.L_lc + S::kPositions - 1) / S::kPositions, all = tiles * p.heads.Hkv_lc * p.chunks;
  int64_t at = all * blockIdx.x / gridDim.x;
  const int64_t end = all * (blockIdx.x + 1) / gridDim.x;
  wait_for_previous();
  while (at < end) {
    const int list = static_cast<int>(at / tiles), g = list / p.chunks, chunk = list % p.chunks;
    const int64_t first = at % tiles * S::kPositions;
    const int count = static_cast<int>(min(end - at, tiles - at % tiles));
    const int first_head = p.heads.first(g) + chunk * p.heads_per_list;
    const int heads = min(p.heads_per_list, p.heads.count(g) - chunk * p.heads_per_list);
    at += count;
    if (heads <= 0) continue;
    load_heads<S>(p, first_head, heads, memory);
    for (int tile = warpgroup; tile < count; tile += S::kWarpgroups) {
      const int64_t here = first + static_cast<int64_t>(tile) * S::kPositions;
      Values<S> x;
      load_values<S>(p, g, here, x);
      if (tile + S::kWarpgroups < count) prefetch_values<S>(p, g, here + S::kWarpgroups * S::kPositions);
      score_tile<S>(p, first_head, heads, here, memory, x);
    }
  }
}

#endif

template <class S>
static __global__ void __launch_bounds__(S::kThreads, 1) before_kernel(const __grid_constant__ BeforeProducts p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(128) unsigned char shared[];
  score_tiles<S>(p, shared);
#endif
}

template <class S>
Unsettled launch(Context& ctx, const BeforeArguments<__nv_bfloat16>& arguments, int group, Tensor& marks) {
  using B = Window<S>;
  BeforeProducts p{
      arguments, nullptr, nullptr, {}, static_cast<int>(B::head_bytes(arguments.W)), B::windows(arguments.W), 0, 0};
  const int Hq_lc = p.heads.Hq_lc;
  Tensor packed = ctx.empty(DType::u8, {Hq_lc, p.head_bytes}), limits = ctx.empty(DType::f32, {Hq_lc, 4});
  p.packed = static_cast<unsigned char*>(packed.raw());
  p.limits = static_cast<const HeadLimits*>(limits.raw());
  p.marks.parts = S::kM;
  p.marks.words_per_head = 4 * ((p.L_lc + S::kPositions - 1) / S::kPositions);
  marks = ctx.empty(DType::i32, {Hq_lc, p.marks.words_per_head});
  p.marks.words = static_cast<uint32_t*>(marks.raw());
  p.chunks = (group + B::most_heads(p.W) - 1) / B::most_heads(p.W);
  p.heads_per_list = (group + p.chunks - 1) / p.chunks;
  pack_kernel<S><<<Hq_lc, 1024, 0, stream_of(ctx)>>>(p.r, p.o, p.W, p.packed, p.head_bytes,
                                                     static_cast<HeadLimits*>(limits.raw()));
  RESTKV_KERNEL_CHECK();
  window_kernel<S><<<dim3(Hq_lc, p.windows * kWindowRows / kRowsPerBlock), S::kD, 0, stream_of(ctx)>>>(p);
  RESTKV_KERNEL_CHECK();
  const int bytes = p.heads_per_list * (p.head_bytes + static_cast<int>(sizeof(float))) + B::kAllLogitBytes;
  auto kernel = before_kernel<S>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const int64_t useful =
      blocks_for(p.L_lc, static_cast<int64_t>(S::kPositions) * S::kWarpgroups) * int64_t{p.heads.Hkv_lc * p.chunks};
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(ctx.gpu()->multiprocessors(), useful));
  launch_dependent(kernel, dim3(blocks), dim3(S::kThreads), static_cast<size_t>(bytes), stream_of(ctx), p);
  return p.marks;
}

using Shape64 = Shape<64, 32, 2, 3>;
using Shape128 = Shape<128, 32, 2, 3>;
using Shape256 = Shape<256, 32, 1, 2>;

}  // namespace

bool has_warpgroup_before(int64_t d, int64_t W) {
  const int heads = d == 64    ? Window<Shape64>::most_heads(W)
                    : d == 128 ? Window<Shape128>::most_heads(W)
                    : d == 256 ? Window<Shape256>::most_heads(W)
                               : 0;
  return heads > 0 && has_warpgroups();
}

Unsettled warpgroup_before(Context& ctx, const BeforeArguments<__nv_bfloat16>& p, int group, Tensor& marks) {
  RESTKV_CHECK(has_warpgroup_before(p.heads.d, p.W),
               "mode before by warpgroups: head size {}, {} window rows, or the device or the build has none (sm_90a)",
               p.heads.d, p.W);
  if (p.heads.d == 64) return launch<Shape64>(ctx, p, group, marks);
  if (p.heads.d == 256) return launch<Shape256>(ctx, p, group, marks);
  return launch<Shape128>(ctx, p, group, marks);
}

}  // namespace restkv::gpu
