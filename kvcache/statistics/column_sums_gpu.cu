// A block of threads stands on a tile of keys of one query head and lets all queries behind them pass. Keys lie along
// the rows of the product and stay in registers, queries along its columns and come through shared memory: a key's
// weights are then added within a thread, and four lanes meet once, at the end.
#include <cmath>

#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/column_steps.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/gpu/tensor_core.h"
#include "kvcache/statistics/column_sums_kernels.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kQueries = 64;  // of a step, from a multiple of as many positions on
constexpr int kStages = 3;
// Each warp has 16 * kTiles keys.
template <int kD, int kTiles>
struct Shape {
  static constexpr int kKeys = kWarps * 16 * kTiles;
  static constexpr int kRowBytes = kD * 2;
  static constexpr int kChunks = kD / 8;  // of 16 bytes per row
  static constexpr int kStageBytes = kQueries * kRowBytes;
  static constexpr int kLseBytes = kStages * kQueries * 4;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kKeyBytes = kKeys * kRowBytes;
  static constexpr int kSharedBytes = (kRingBytes > kKeyBytes ? kRingBytes : kKeyBytes) + kLseBytes;
};

// Chunks of a row change places with the row: the eight rows that a matrix of ldmatrix reads lie in different banks.
__device__ inline uint32_t place(int row, int chunk, int row_bytes) {
  return static_cast<uint32_t>(row * row_bytes + (chunk ^ (row & 7)) * 16);
}

// column_sum_of() without f64: a product with a power of two is exact.
__device__ inline int64_t in_units(float weights) {
  return __float2ll_rn(weights * static_cast<float>(int64_t{1} << kColumnSumBits));
}

using Arguments = ColumnArguments;
using Step = QueryStep;
using Steps = QuerySteps<kQueries>;

template <class S, int kD>
__device__ void load_queries(const Arguments& p, int head, const Step& step, uint32_t to, float* lse) {
  for (int i = threadIdx.x; i < kQueries * S::kChunks; i += kThreads) {
    const int r = i / S::kChunks, chunk = i % S::kChunks;
    const bool valid = r < step.count;
    copy_async16(to + place(r, chunk, S::kRowBytes),
                 p.q + (step.local + (valid ? r : 0)) * p.q_ld + static_cast<int64_t>(head) * kD + chunk * 8, valid);
  }
  if (threadIdx.x < kQueries) {
    // Rows that are not there, or have no weights, get weights of zero.
    const int r = static_cast<int>(threadIdx.x);
    const float x = r < step.count ? p.lse[static_cast<int64_t>(head) * p.L_lc + step.local + r] : INFINITY;
    lse[r] = x == -INFINITY ? INFINITY : x * kLog2e;
  }
}

// sum[m][i] += the weights that one thread has of its keys, of 16 queries from column `column` of a step on.
template <class S, int kD, int kTiles>
__device__ void add_columns(const uint32_t (&keys)[kTiles][kD / 16][4], uint32_t queries, const float* lse, int column,
                            float scale, bool diagonal, int ahead, float (&sum)[kTiles][2]) {
  const int lane = threadIdx.x % 32;
  const int row = column + (lane & 7) + ((lane >> 4) << 3), half = (lane >> 3) & 1;
  float c[kTiles][2][4] = {};
#pragma unroll
  for (int kt = 0; kt < kD / 16; ++kt) {
    uint32_t b[4];
    load_matrices(b, queries + place(row, kt * 2 + half, S::kRowBytes));
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      multiply_bf16(c[m][0], keys[m][kt], b[0], b[1]);
      multiply_bf16(c[m][1], keys[m][kt], b[2], b[3]);
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int first = column + n * 8 + (lane & 3) * 2;
    const float2 l = *reinterpret_cast<const float2*>(lse + first);
#pragma unroll
    for (int m = 0; m < kTiles; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float w0 = exp2_approximate(fmaf(c[m][n][2 * i], scale, -l.x));
        float w1 = exp2_approximate(fmaf(c[m][n][2 * i + 1], scale, -l.y));
        if (diagonal) {
          // `ahead`: this thread's first key minus the step's first query.
          const int key = ahead + m * 16 + i * 8;
          w0 = first >= key ? w0 : 0.0f;
          w1 = first + 1 >= key ? w1 : 0.0f;
        }
        sum[m][i] += w0 + w1;
      }
  }
}

template <int kD, int kTiles>
__global__ void __launch_bounds__(kThreads, kD <= 128 ? 2 : 1) column_sums_kernel(Arguments p) {
  using S = Shape<kD, kTiles>;
  extern __shared__ __align__(128) unsigned char shared[];
  float* lse = reinterpret_cast<float*>(shared);  // [kStages][kQueries]
  const uint32_t ring = shared_address(shared + S::kLseBytes);
  const int head = blockIdx.x, g = (p.heads.q_begin + head) / p.heads.group - p.heads.kv_begin;
  const int64_t key0 = static_cast<int64_t>(blockIdx.y) * S::kKeys;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  for (int i = threadIdx.x; i < S::kKeys * S::kChunks; i += kThreads) {
    const int r = i / S::kChunks, chunk = i % S::kChunks;
    const bool valid = key0 + r < p.L;
    copy_async16(ring + place(r, chunk, S::kRowBytes),
                 p.k + (valid ? key0 + r : 0) * p.k_ld + static_cast<int64_t>(g) * kD + chunk * 8, valid);
  }
  wait_copies();
  __syncthreads();
  uint32_t keys[kTiles][kD / 16][4];
#pragma unroll
  for (int m = 0; m < kTiles; ++m)
#pragma unroll
    for (int kt = 0; kt < kD / 16; ++kt)
      load_matrices(keys[m][kt],
                    ring + place((warp * kTiles + m) * 16 + (lane & 15), kt * 2 + (lane >> 4), S::kRowBytes));
  __syncthreads();  // the ring takes the place of the keys

  const Steps steps(p.run, key0);
  const int total = steps.total(), key = warp * kTiles * 16 + (lane >> 2);  // this thread's first key in the tile
  int64_t sums[kTiles][2] = {};
  const auto fetch = [&](int index) {
    if (index < total)
      load_queries<S, kD>(p, head, steps.at(p.run, index), ring + index % kStages * S::kStageBytes,
                          lse + index % kStages * kQueries);
    commit_copies();  // an empty group where there is nothing: groups are counted
  };
  for (int i = 0; i < kStages - 1; ++i) fetch(i);
  for (int index = 0; index < total; ++index) {
    wait_groups<kStages - 2>();
    __syncthreads();  // this step's queries are there, and nobody reads those of the step before
    fetch(index + kStages - 1);
    const Step step = steps.at(p.run, index);
    const bool diagonal = step.position < key0 + S::kKeys;
    const int ahead = static_cast<int>(key0 + key - step.position);
#pragma unroll 1  // more at a time would not fit the registers
    for (int part = 0; part < kQueries; part += kAdded) {
      float sum[kTiles][2] = {};
#pragma unroll
      for (int column = part; column < part + kAdded; column += 16)
        add_columns<S, kD, kTiles>(keys, ring + index % kStages * S::kStageBytes, lse + index % kStages * kQueries,
                                   column, p.scale, diagonal, ahead, sum);
#pragma unroll
      for (int m = 0; m < kTiles; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i) sums[m][i] += in_units(sum[m][i]);
    }
  }
#pragma unroll
  for (int m = 0; m < kTiles; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int64_t all = sums[m][i];
      for (int offset = 1; offset < 4; offset *= 2) all += __shfl_xor_sync(0xffffffffu, all, offset);
      const int64_t at = key0 + key + m * 16 + i * 8;
      if ((lane & 3) == 0 && at < p.L) p.sums[static_cast<int64_t>(head) * p.L + at] = all;
    }
}

template <int kD, int kTiles>
void launch(Context& ctx, const Arguments& p) {
  using S = Shape<kD, kTiles>;
  auto kernel = column_sums_kernel<kD, kTiles>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes));
  // Tiles of early keys, which most queries see, come first.
  kernel<<<dim3(p.heads.Hq_lc, blocks_for(p.L, S::kKeys)), kThreads, S::kSharedBytes, stream_of(ctx)>>>(p);
  RESTKV_KERNEL_CHECK();
}

// Without tensor cores, for any head size and for f32: one thread per key.
template <class T>
__global__ void plain_column_sums(HeadMap heads, Segment lower, Segment upper, int64_t L, int64_t L_lc, int64_t q_ld,
                                  int64_t k_ld, float scale, const T* q, const T* k, const float* lse, int64_t* sums) {
  const int64_t key = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (key >= L) return;
  const int head = blockIdx.y, g = (heads.q_begin + head) / heads.group - heads.kv_begin;
  const T* mine = k + key * k_ld + static_cast<int64_t>(g) * heads.d;
  int64_t total = 0;
  for (int part = 0; part < 2; ++part) {
    const Segment run = part == 0 ? lower : upper;
    for (int64_t first = max(int64_t{0}, (key - run.global) / kAdded * kAdded); first < run.count; first += kAdded) {
      float sum = 0.0f;
      for (int64_t i = first; i < min(first + kAdded, run.count); ++i) {
        const float row = lse[head * L_lc + run.local + i];
        if (run.global + i < key || row == -INFINITY) continue;
        const T* theirs = q + (run.local + i) * q_ld + static_cast<int64_t>(head) * heads.d;
        float dot = 0.0f;
        for (int j = 0; j < heads.d; ++j) dot = fmaf(to_f32(theirs[j]), to_f32(mine[j]), dot);
        sum += exp2_approximate((dot * scale - row) * kLog2e);
      }
      total += in_units(sum);
    }
  }
  sums[static_cast<int64_t>(head) * L + key] = total;
}

__global__ void column_scores_kernel(Segment run, int64_t L, int64_t stride, const int64_t* sums, float* scores) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, head = blockIdx.y;
  if (i < run.count) scores[head * stride + run.local + i] = column_sum_value(sums[head * L + run.global + i]);
}

Arguments arguments_of(const HeadLayout& heads, const LocalShard& shard, const PromptQueries& prompt, int64_t* sums) {
  RESTKV_CHECK(shard.all.size() <= 2, "{} runs of positions; kernels take two", shard.all.size());
  RESTKV_CHECK(prompt.q.dtype == prompt.k.dtype, "column_sums: queries of {}, keys of {}", name_of(prompt.q.dtype),
               name_of(prompt.k.dtype));
  Arguments p{};
  for (size_t i = 0; i < shard.all.size(); ++i) {
    p.run[i] = shard.all[i];
    RESTKV_CHECK(p.run[i].global % kAdded == 0, "a run of positions begins at {}", p.run[i].global);
  }
  p.heads = head_map(heads);
  p.L = shard.L, p.L_lc = shard.L_lc, p.q_ld = prompt.q.ld, p.k_ld = prompt.k.ld;
  p.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(heads.d))) * kLog2e;
  p.q = static_cast<const __nv_bfloat16*>(prompt.q.data);
  p.k = static_cast<const __nv_bfloat16*>(prompt.k.data);
  p.lse = prompt.lse, p.sums = sums;
  return p;
}

}  // namespace

void column_sums(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const PromptQueries& prompt,
                 int64_t* sums) {
  column_sums(ctx, heads, shard, prompt, sums, ColumnKernel::fastest);
}

void column_sums(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const PromptQueries& prompt,
                 int64_t* sums, ColumnKernel kernel) {
  if (heads.Hq_lc() == 0 || shard.L == 0) return;
  const Arguments p = arguments_of(heads, shard, prompt, sums);
  const int64_t d = heads.d;
  const bool tensor_cores = prompt.k.dtype == DType::bf16 && (d == 64 || d == 128 || d == 256) &&
                            aligned_rows(prompt.q, 16) && aligned_rows(prompt.k, 16);
  RESTKV_CHECK(tensor_cores || kernel == ColumnKernel::fastest, "column_sums: {} of head size {} by a kernel of choice",
               name_of(prompt.k.dtype), d);
  if (tensor_cores) {
    const bool fits = d != 256;
    const bool by_warpgroups =
        kernel == ColumnKernel::fastest ? fits && has_warpgroups() : kernel != ColumnKernel::warps;
    if (by_warpgroups) return warpgroup_columns(ctx, p);
    if (d == 64) return launch<64, 2>(ctx, p);
    if (d == 128) return launch<128, 2>(ctx, p);
    return launch<256, 1>(ctx, p);
  }
  with_elements("column_sums", prompt.k, [&](auto* k) {
    const dim3 grid(blocks_for(p.L, 128), static_cast<unsigned>(heads.Hq_lc()));
    plain_column_sums<<<grid, 128, 0, stream_of(ctx)>>>(p.heads, p.run[0], p.run[1], p.L, p.L_lc, p.q_ld, p.k_ld,
                                                        static_cast<float>(1.0 / std::sqrt(static_cast<double>(d))),
                                                        static_cast<decltype(k)>(prompt.q.data), k, p.lse, sums);
    RESTKV_KERNEL_CHECK();
  });
}

void column_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const int64_t* sums, float* scores) {
  if (heads.Hq_lc() == 0) return;
  for (const Segment& run : shard.all) {
    const dim3 grid(blocks_for(run.count, 256), static_cast<unsigned>(heads.Hq_lc()));
    column_scores_kernel<<<grid, 256, 0, stream_of(ctx)>>>(run, shard.L, shard.stride, sums, scores);
    RESTKV_KERNEL_CHECK();
  }
}

}  // namespace restkv::gpu
