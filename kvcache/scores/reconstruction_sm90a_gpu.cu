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
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/gpu/softmax_weight.h"
#include "kvcache/scores/reconstruction_kernels.h"
#include "kvcache/scores/warpgroup_norms.h"

namespace restkv::gpu {
namespace {

struct Arguments : NormArguments {
  const unsigned char* factors;  // [Hq_lc][kHeadBytes], see pack_kernel
  const HeadLimits* limits;
  int heads_per_list, chunks;  // a list: query heads of one KV head whose factors are in shared memory together
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

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
    Sums<S> y[2];
    square_norms<S>(std::make_integer_sequence<int, S::kBlocks>{}, y, x, c, factors, sum, NothingBehind{});
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

template <class S>
void launch(Context& ctx, const NormArguments& arguments, int group) {
  Arguments p{arguments, nullptr, nullptr, 0, 0};
  Tensor factors = ctx.empty(DType::u8, {p.heads.Hq_lc, S::kHeadBytes});
  Tensor limits = ctx.empty(DType::f32, {p.heads.Hq_lc, 4});
  p.factors = static_cast<const unsigned char*>(factors.raw());
  p.limits = static_cast<const HeadLimits*>(limits.raw());
  p.chunks = (group + S::kMostHeads - 1) / S::kMostHeads;
  p.heads_per_list = (group + p.chunks - 1) / p.chunks;
  const int bytes = p.heads_per_list * S::kHeadBytes + S::kValueBytes;
  auto kernel = norms_kernel<S>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  pack_kernel<S><<<p.heads.Hq_lc, 1024, 0, stream_of(ctx)>>>(p.r, p.o, 1, static_cast<unsigned char*>(factors.raw()),
                                                             S::kHeadBytes, static_cast<HeadLimits*>(limits.raw()));
  RESTKV_KERNEL_CHECK();
  const int64_t useful =
      blocks_for(p.L_lc, static_cast<int64_t>(S::kPositions) * S::kWarpgroups) * int64_t{p.heads.Hkv_lc * p.chunks};
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(ctx.gpu()->multiprocessors(), useful));
  launch_dependent(kernel, dim3(blocks), dim3(S::kThreads), static_cast<size_t>(bytes), stream_of(ctx), p);
}

}  // namespace

void warpgroup_norms(Context& ctx, const NormArguments& p, int group) {
  RESTKV_CHECK(has_warpgroups(), "norms by warpgroups: the device or the build has none (sm_90a)");
  if (p.heads.d == 64) return launch<Shape<64, 32, 2, 3>>(ctx, p, group);
  if (p.heads.d == 256) return launch<Shape<256, 32, 1, 2>>(ctx, p, group);
  launch<Shape<128, 32, 2, 3>>(ctx, p, group);
}

}  // namespace restkv::gpu
