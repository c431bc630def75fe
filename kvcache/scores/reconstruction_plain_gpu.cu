// The reconstruction indicator by plain f32 arithmetic: any head size and dtype, with and without factors, and mode
// `before`, where every window row has an output of its own. A warp's lanes are 32 neighbouring positions; the rows of
// R_h are dealt to the warps.
#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/gpu/softmax_weight.h"
#include "kvcache/gpu/squared_norms.h"
#include "kvcache/scores/before_kernels.h"
#include "kvcache/scores/reconstruction_kernels.h"

namespace restkv::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowBlock = 4;
constexpr int kPitch = 33;  // of a column of 32 positions in shared memory

// y[i] = row j0 + i of r [d, d] times the lane's column of x [d][kPitch], from column j0 on: r is upper triangular.
// Rows beyond d repeat the last one.
__device__ inline void multiply_rows(const float* r, int d, int j0, const float* x, float (&y)[kRowBlock]) {
  const int lane = threadIdx.x % 32;
  const float* row[kRowBlock];
#pragma unroll
  for (int i = 0; i < kRowBlock; ++i) {
    row[i] = r + static_cast<int64_t>(min(j0 + i, d - 1)) * d;
    y[i] = 0.0f;
  }
  int k = j0;
  if (d % 4 == 0)  // and so is j0
    for (; k < d; k += 4) {
      float z[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) z[n] = x[(k + n) * kPitch + lane];
#pragma unroll
      for (int i = 0; i < kRowBlock; ++i) {
        const float4 f = __ldg(reinterpret_cast<const float4*>(row[i] + k));
        y[i] = fmaf(f.w, z[3], fmaf(f.z, z[2], fmaf(f.y, z[1], fmaf(f.x, z[0], y[i]))));
      }
    }
  for (; k < d; ++k) {
    const float z = x[k * kPitch + lane];
#pragma unroll
    for (int i = 0; i < kRowBlock; ++i) y[i] = fmaf(__ldg(row[i] + k), z, y[i]);
  }
}

// x [d][kPitch] = the values of 32 positions from `first` on, of one KV head; zeros beyond the shard.
template <class T>
__device__ void load_positions(const T* v, int64_t v_ld, int column, int d, int64_t first, int64_t L_lc, float* x) {
  for (int i = threadIdx.x; i < 32 * d; i += kThreads) {
    const int64_t position = first + i / d;
    x[i % d * kPitch + i / d] = position < L_lc ? to_f32(v[position * v_ld + column + i % d]) : 0.0f;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) after_kernel(AfterArguments<T> p) {
  extern __shared__ float shared[];
  const int h = blockIdx.x, d = p.heads.d, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int g = (p.heads.q_begin + h) / p.heads.group - p.heads.kv_begin;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * 32;
  float* e = shared;             // [d][kPitch]
  float* part = e + d * kPitch;  // [kWarps][32]
  load_positions(p.v, p.v_ld, g * d, d, first, p.L_lc, e);
  __syncthreads();
  // Subtract before anything is squared: v close to o is where the weight is large.
  for (int k = warp; k < d; k += kWarps) e[k * kPitch + lane] = p.o[h * d + k] - e[k * kPitch + lane];
  __syncthreads();
  float sum = 0.0f;
  if (p.r == nullptr) {
    for (int k = warp; k < d; k += kWarps) sum = fmaf(e[k * kPitch + lane], e[k * kPitch + lane], sum);
  } else {
    for (int j0 = warp * kRowBlock; j0 < d; j0 += kWarps * kRowBlock) {
      float y[kRowBlock];
      multiply_rows(p.r + static_cast<int64_t>(h) * d * d, d, j0, e, y);
#pragma unroll
      for (int i = 0; i < kRowBlock; ++i)
        if (j0 + i < d) sum = fmaf(y[i], y[i], sum);
    }
  }
  part[warp * 32 + lane] = sum;
  __syncthreads();
  if (warp != 0 || first + lane >= p.L_lc) return;
  for (int i = 1; i < kWarps; ++i) sum += part[i * 32 + lane];
  float norm = sqrtf(sum);
  if (p.tau != 1.0f) norm = powf(norm, p.tau);
  const int64_t at = h * p.stride + first + lane;
  p.s[at] = odds(p.a[at]) * norm;
}

// Without factors, for bf16 values: eight columns per thread, all query heads of the KV head at once.
template <int kD>
__global__ void __launch_bounds__(kThreads) distances_kernel(AfterArguments<__nv_bfloat16> p) {
  constexpr int kLanes = kD / 8, kRows = kThreads / kLanes, kSets = 4;
  const int g = blockIdx.x, first_head = p.heads.first(g), heads = p.heads.count(g);
  const int lane = threadIdx.x % kLanes;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kRows * kSets + threadIdx.x / kLanes;
  float x[kSets][8];
#pragma unroll
  for (int n = 0; n < kSets; ++n)
    unpack(load8(p.v + min(first + n * kRows, p.L_lc - 1) * p.v_ld + g * kD + lane * 8), x[n]);
  for (int h = first_head; h < first_head + heads; ++h) {
    const float4* o = reinterpret_cast<const float4*>(p.o + h * kD + lane * 8);
    const float4 low = __ldg(o), high = __ldg(o + 1);
    const float c[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int n = 0; n < kSets; ++n) {
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < 8; ++k) sum = fmaf(c[k] - x[n][k], c[k] - x[n][k], sum);
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      const int64_t i = first + n * kRows;
      if (lane != n || i >= p.L_lc) continue;
      float norm = sqrtf(sum);
      if (p.tau != 1.0f) norm = powf(norm, p.tau);
      p.s[h * p.stride + i] = odds(p.a[h * p.stride + i]) * norm;
    }
  }
}

template <int kD>
void launch_distances(Context& ctx, const AfterArguments<__nv_bfloat16>& p) {
  const unsigned tiles = blocks_for(p.L_lc, 4 * kThreads / (kD / 8));
  distances_kernel<kD><<<dim3(p.heads.Hkv_lc, tiles), kThreads, 0, stream_of(ctx)>>>(p);
  RESTKV_KERNEL_CHECK();
}

// c [rows, d] = R_h o and scale [rows], for 32 window rows of a head. By the same sums as R_h v: where one position
// takes all attention, o is v bit for bit, and their difference must be zero.
__global__ void __launch_bounds__(kThreads)
    outputs_kernel(const float* o, const float* r, int W, int d, bool normalize, float* c, float* scale) {
  extern __shared__ float shared[];
  const int h = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t w0 = static_cast<int64_t>(blockIdx.y) * 32;
  float* x = shared;          // [d][kPitch]
  float* y = x + d * kPitch;  // [d][kPitch]
  load_positions(o + static_cast<int64_t>(h) * W * d, d, 0, d, w0, W, x);
  __syncthreads();
  for (int j0 = warp * kRowBlock; j0 < d; j0 += kWarps * kRowBlock) {
    float rows[kRowBlock];
    if (r != nullptr) multiply_rows(r + static_cast<int64_t>(h) * d * d, d, j0, x, rows);
    for (int i = 0; i < kRowBlock && j0 + i < d; ++i)
      y[(j0 + i) * kPitch + lane] = r != nullptr ? rows[i] : x[(j0 + i) * kPitch + lane];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * d; i += kThreads)
    if (w0 + i / d < W) c[(h * W + w0 + i / d) * d + i % d] = y[i % d * kPitch + i / d];
  if (warp != 0 || w0 + lane >= W) return;
  float sum = 0.0f;
  for (int k = 0; k < d; ++k) sum = fmaf(y[k * kPitch + lane], y[k * kPitch + lane], sum);
  scale[h * W + w0 + lane] = normalize && sum > 0.0f ? 1.0f / sqrtf(sum) : 1.0f;
}

// distance[i] = ||c_(w0 + i) - y|| for the lane's column y [d][kPitch]; rows beyond W repeat the last one.
__device__ inline void distances(const float* c, int W, int d, int w0, const float* y, float (&distance)[kRowBlock]) {
  const int lane = threadIdx.x % 32;
  const float* row[kRowBlock];
#pragma unroll
  for (int i = 0; i < kRowBlock; ++i) {
    row[i] = c + static_cast<int64_t>(min(w0 + i, W - 1)) * d;
    distance[i] = 0.0f;
  }
  for (int k = 0; k < d; ++k) {
    const float x = y[k * kPitch + lane];
#pragma unroll
    for (int i = 0; i < kRowBlock; ++i) {
      const float e = __ldg(row[i] + k) - x;
      distance[i] = fmaf(e, e, distance[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kRowBlock; ++i) distance[i] = sqrtf(distance[i]);
}

// What a block of threads works on in mode `before`.
struct BeforeShared {
  float* x;      // [d][kPitch] values
  float* y;      // [d][kPitch] R_h v
  float* terms;  // [kWarps * kRowBlock][32], of as many window rows

  static int64_t floats(int64_t d, bool factors) { return (factors ? 2 : 1) * d * kPitch + 32 * kWarps * kRowBlock; }
  __device__ BeforeShared(float* shared, int d, bool factors)
      : x(shared), y(factors ? x + d * kPitch : x), terms(y + d * kPitch) {}
};

// The scores of the positions at[0], ..., at[count - 1], at most 32, for head h.
template <class T>
__device__ void score_positions(const BeforeArguments<T>& p, int h, const int* at, int count, const BeforeShared& m) {
  const int d = p.heads.d, W = p.W, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int g = (p.heads.q_begin + h) / p.heads.group - p.heads.kv_begin;
  for (int i = threadIdx.x; i < 32 * d; i += kThreads)
    m.x[i % d * kPitch + i / d] = i / d < count ? to_f32(p.v[at[i / d] * p.v_ld + g * d + i % d]) : 0.0f;
  __syncthreads();
  if (p.r != nullptr) {
    for (int j0 = warp * kRowBlock; j0 < d; j0 += kWarps * kRowBlock) {
      float rows[kRowBlock];
      multiply_rows(p.r + static_cast<int64_t>(h) * d * d, d, j0, m.x, rows);
#pragma unroll
      for (int i = 0; i < kRowBlock; ++i)
        if (j0 + i < d) m.y[(j0 + i) * kPitch + lane] = rows[i];
    }
    __syncthreads();
  }
  const int64_t position = at[min(lane, count - 1)];
  float state = 0.0f;
  for (int base = 0; base < W; base += kWarps * kRowBlock) {
    const int w0 = base + warp * kRowBlock;
    if (w0 < W) {
      float distance[kRowBlock];
      distances(p.c + static_cast<int64_t>(h) * W * d, W, d, w0, m.y, distance);
      for (int i = 0; i < kRowBlock && w0 + i < W; ++i) {
        const int64_t row = static_cast<int64_t>(h) * W + w0 + i;
        const float weight = odds(softmax_weight(p.logits[row * p.stride + position], __ldg(p.softmax + row)));
        m.terms[(warp * kRowBlock + i) * 32 + lane] = weight * distance[i] * p.scale[row];
      }
    }
    __syncthreads();
    if (warp == 0)
      for (int w = base; w < min(W, base + kWarps * kRowBlock); ++w)
        state = p.reduce.add(state, m.terms[(w - base) * 32 + lane], w);
    __syncthreads();
  }
  if (warp == 0 && lane < count) p.s[h * p.stride + position] = p.reduce.finish(state);
}

// All local positions, 32 per block.
template <class T>
__global__ void __launch_bounds__(kThreads) before_kernel(BeforeArguments<T> p) {
  extern __shared__ float shared[];
  __shared__ int at[32];
  const int64_t first = static_cast<int64_t>(blockIdx.y) * 32;
  if (threadIdx.x < 32) at[threadIdx.x] = static_cast<int>(first) + static_cast<int>(threadIdx.x);
  __syncthreads();
  score_positions(p, static_cast<int>(blockIdx.x), at, static_cast<int>(min(int64_t{32}, p.L_lc - first)),
                  BeforeShared(shared, p.heads.d, p.r != nullptr));
}

constexpr int kWordsPerBlock = 128;

// The marked positions of kWordsPerBlock words of a head. Mostly there are none.
__global__ void __launch_bounds__(kThreads) unsettled_kernel(BeforeArguments<__nv_bfloat16> p, Unsettled marked) {
  extern __shared__ float shared[];
  __shared__ int found[32 * 32], total;
  const int h = blockIdx.x, lane = threadIdx.x % 32;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kWordsPerBlock;
  const int count = static_cast<int>(min(int64_t{kWordsPerBlock}, marked.words_per_head - begin));
  const uint32_t* words = marked.words + h * marked.words_per_head + begin;
  if (__syncthreads_or(static_cast<int>(threadIdx.x) < count && words[threadIdx.x] != 0) == 0) return;
  for (int w0 = 0; w0 < count; w0 += 32) {
    if (threadIdx.x < 32) {
      uint32_t word = w0 + lane < count ? words[w0 + lane] : 0;
      int upto = __popc(word);
      for (int step = 1; step < 32; step *= 2) {
        const int left = __shfl_up_sync(0xffffffffu, upto, step);
        if (lane >= step) upto += left;
      }
      if (lane == 31) total = upto;
      const int64_t first = marked.first(begin + w0 + lane);
      for (int i = upto - __popc(word); word != 0; word &= word - 1, ++i) {
        const int bit = __ffs(static_cast<int>(word)) - 1;
        found[i] = static_cast<int>(first) + Unsettled::offset(bit % 4, bit / 4);
      }
    }
    __syncthreads();
    for (int base = 0; base < total; base += 32)
      score_positions(p, h, found + base, min(32, total - base), BeforeShared(shared, p.heads.d, true));
    __syncthreads();  // all have read the list
  }
}

dim3 cells_of(const HeadLayout& heads, int64_t columns) {
  RESTKV_CHECK(columns <= 65535 * int64_t{32}, "reconstruction on a GPU: {} positions on one rank", columns);
  return {static_cast<unsigned>(heads.Hq_lc()), blocks_for(columns, 32), 1};
}

template <class... P>
void launch(Context& ctx, void (*kernel)(P...), dim3 cells, int64_t floats, P... arguments) {
  const int bytes = static_cast<int>(floats * sizeof(float));
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  kernel<<<cells, kThreads, bytes, stream_of(ctx)>>>(arguments...);
  RESTKV_KERNEL_CHECK();
}

}  // namespace

void plain_reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                                const float* o, const MatrixView& v, const float* r, double tau, float* s) {
  if (r == nullptr && v.dtype == DType::bf16 && aligned_rows(v, 16)) {
    const AfterArguments<__nv_bfloat16> p{head_map(heads),
                                          shard.L_lc,
                                          shard.stride,
                                          v.ld,
                                          a,
                                          o,
                                          static_cast<const __nv_bfloat16*>(v.data),
                                          nullptr,
                                          static_cast<float>(tau),
                                          s};
    if (heads.d == 64) return launch_distances<64>(ctx, p);
    if (heads.d == 128) return launch_distances<128>(ctx, p);
    if (heads.d == 256) return launch_distances<256>(ctx, p);
  }
  with_elements("reconstruction_after", v, [&](const auto* values) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(values)>>;
    launch(ctx, after_kernel<T>, cells_of(heads, shard.L_lc), heads.d * kPitch + kThreads,
           AfterArguments<T>{head_map(heads), shard.L_lc, shard.stride, v.ld, a, o, values, r, static_cast<float>(tau),
                             s});
  });
}

namespace {

// For any head size and dtype.
template <class T>
void plain_before(Context& ctx, const HeadLayout& heads, const BeforeArguments<T>& p) {
  launch(ctx, outputs_kernel, cells_of(heads, p.W), 2 * int64_t{p.heads.d} * kPitch, p.o, p.r, p.W, p.heads.d,
         bool{p.normalize}, p.c, p.scale);
  launch(ctx, before_kernel<T>, cells_of(heads, p.L_lc), BeforeShared::floats(p.heads.d, p.r != nullptr),
         BeforeArguments<T>{p});
}

void settle(Context& ctx, const HeadLayout& heads, const BeforeArguments<__nv_bfloat16>& p, const Unsettled& marked) {
  const dim3 cells(static_cast<unsigned>(heads.Hq_lc()), blocks_for(marked.words_per_head, kWordsPerBlock));
  launch(ctx, unsettled_kernel, cells, BeforeShared::floats(p.heads.d, true), BeforeArguments<__nv_bfloat16>{p},
         Unsettled{marked});
}

}  // namespace

void reconstruction_before(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                           const float* softmax, const float* o, const MatrixView& v, const float* r,
                           const BeforeOptions& options, float* s) {
  reconstruction_before(ctx, heads, shard, logits, softmax, o, v, r, options, s, BeforeKernel::fastest);
}

void reconstruction_before(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                           const float* softmax, const float* o, const MatrixView& v, const float* r,
                           const BeforeOptions& options, float* s, BeforeKernel kernel) {
  if (shard.L_lc == 0 || heads.Hq_lc() == 0) return;
  const int64_t d = heads.d, W = shard.W;
  // ||R (o_w - v)|| for W outputs as ||R o_w - R v||: R v once instead of W times. The difference is still taken before
  // squaring; its rounding is that of o_w itself.
  Tensor c = ctx.empty(DType::f32, {heads.Hq_lc() * W, d});
  Tensor scale = ctx.empty(DType::f32, {heads.Hq_lc() * W});
  // Nothing that depends on the layout may choose the kernel: scores are the same bits on all.
  const bool products = r != nullptr && v.dtype == DType::bf16 && aligned_rows(v, 16) &&
                        reinterpret_cast<uintptr_t>(r) % 16 == 0 && has_warpgroup_before(d, W);
  RESTKV_CHECK(products || kernel != BeforeKernel::warpgroups,
               "reconstruction_before: no tensor-core kernel for {} of {}, {} window rows", name_of(v.dtype), d, W);
  with_elements("reconstruction_before", v, [&](const auto* values) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(values)>>;
    const BeforeArguments<T> p{head_map(heads),
                               static_cast<int>(W),
                               shard.L_lc,
                               shard.stride,
                               v.ld,
                               logits,
                               reinterpret_cast<const float2*>(softmax),
                               o,
                               values,
                               r,
                               options.normalize,
                               RowReducer(options.temporal, options.alpha, W),
                               c.data<float>(),
                               scale.data<float>(),
                               s};
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
      if (products && kernel != BeforeKernel::plain) {
        Tensor marks;
        const Unsettled marked = warpgroup_before(ctx, p, largest_group(heads), marks);
        return settle(ctx, heads, p, marked);
      }
    plain_before(ctx, heads, p);
  });
}

}  // namespace restkv::gpu
