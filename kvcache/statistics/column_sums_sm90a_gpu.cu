// Column sums by products of warpgroups. As in column_sums_gpu.cu keys stand along the rows of the product, in
// registers, and all queries behind them pass: a key's weights are added within a thread.
//
// One warp has the queries fetched, several steps ahead; two warpgroups have 128 keys each, in two tiles. While the
// weights of one tile are computed and added, the products of the other are under way: the units that raise to powers
// (16 a cycle) have about as much to do as the tensor cores.
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/column_steps.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/gpu/tensor_copy.h"
#include "kvcache/gpu/tensor_core.h"
#include "kvcache/gpu/warpgroup.h"
#include "kvcache/statistics/column_sums_kernels.h"

// Some constants are used only where the compiler is at code for sm_90a.
#pragma nv_diag_suppress 177

namespace restkv::gpu {
namespace {

template <int kD_>
struct Shape {
  static constexpr int kD = kD_;
  static constexpr int kQueries = 128;  // of a step
  static constexpr int kTiles = 2;      // of 64 keys, per warpgroup
  static constexpr int kWarpgroups = 2;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kKeys = 64 * kTiles * kWarpgroups;
  static constexpr int kSteps = kD / 16;  // of 16 columns
  static constexpr int kBoxes = kD / 64;  // rectangles of 64 columns
  static constexpr int kBoxBytes = kQueries * 128;
  static constexpr int kStageBytes = kBoxes * kBoxBytes;
  static constexpr int kStages = 4;
  static constexpr int kLseAt = kStages * kStageBytes;  // [kStages][kQueries]
  static constexpr int kBarriersAt = kLseAt + kStages * kQueries * 4;
  static constexpr int kSharedBytes = 1024 + kBarriersAt + 2 * kStages * 8;  // 1024: to begin at a multiple of it
};

constexpr int kFetchRegisters = 40, kWorkRegisters = 232;  // 128 * 40 + 256 * 232 are those of 384 * 168

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Places in shared memory.
template <class S>
struct Ring {
  unsigned char* base;
  __device__ uint32_t queries(int stage) const { return shared_address(base) + stage * S::kStageBytes; }
  __device__ float* lse(int stage) const { return reinterpret_cast<float*>(base + S::kLseAt) + stage * S::kQueries; }
  __device__ uint32_t filled(int stage) const { return shared_address(base) + S::kBarriersAt + stage * 8; }
  __device__ uint32_t emptied(int stage) const { return filled(stage) + S::kStages * 8; }
};

// What one warp does: the queries of all steps and their log-sum-exps.
template <class S>
__device__ void fetch(const ColumnArguments& p, const CUtensorMap& rows, const QuerySteps<S::kQueries>& steps,
                      const Ring<S>& ring) {
  const int lane = static_cast<int>(threadIdx.x) % 32, head = static_cast<int>(blockIdx.y), total = steps.total();
  const float* lse = p.lse + static_cast<int64_t>(head) * p.L_lc;
  for (int index = 0; index < total; ++index) {
    const int stage = index % S::kStages;
    if (index >= S::kStages) wait_phase(ring.emptied(stage), (index / S::kStages - 1) & 1);
    const QueryStep step = steps.at(p.run, index);
    if (lane == 0) {
      expect_bytes(ring.filled(stage), S::kStageBytes);
#pragma unroll
      for (int box = 0; box < S::kBoxes; ++box)
        copy_box(ring.queries(stage) + box * S::kBoxBytes, rows, head * S::kD + box * 64, static_cast<int>(step.local),
                 ring.filled(stage));
    }
    __syncwarp();
    // Rows that are not there, or have no weights, get weights of zero.
    float x[S::kQueries / 32];
#pragma unroll
    for (int j = 0; j < S::kQueries / 32; ++j)
      x[j] = lane + 32 * j < step.count ? lse[step.local + lane + 32 * j] : INFINITY;
#pragma unroll
    for (int j = 0; j < S::kQueries / 32; ++j)
      ring.lse(stage)[lane + 32 * j] = x[j] == -INFINITY ? INFINITY : x[j] * kLog2e;
    arrive(ring.filled(stage));
  }
}

// A sum in units of 2^-kColumnSumBits without conversions, which would take the units that the powers need: adding
// kCoarse rounds to units of 2^-18, which the lowest bits then count, and adding kFine does the same with what is left.
// Sums of at most 32 weights fit; each thread has eight of them.
constexpr float kCoarse = 48.0f, kFine = 1.5f / (1 << 17);
constexpr int kCoarseShift = kColumnSumBits - 18;
// Steps until the counts could pass 32 bits: four times a step a thread adds at most 2^21 to either.
constexpr int kCountedSteps = 128;

struct Counts {
  uint32_t coarse = 0, fine = 0;
  int64_t sum = 0;

  __device__ void add(float weights) {
    const float high = __fadd_rn(weights, kCoarse);
    coarse += __float_as_uint(high);
    const float rest = __fadd_rn(weights, -__fadd_rn(high, -kCoarse));  // exact
    fine += __float_as_uint(__fadd_rn(rest, kFine));
  }
  // After `times` sums.
  __device__ void flush(uint32_t times) {
    const uint32_t upper = coarse - times * __float_as_uint(kCoarse), lower = fine - times * __float_as_uint(kFine);
    sum += (static_cast<int64_t>(upper) << kCoarseShift) + static_cast<int32_t>(lower);
    coarse = fine = 0;
  }
};

template <class S>
using Products = float[S::kQueries / 2];

// Starts the products of a tile of keys with the queries of a step.
template <class S>
__device__ __forceinline__ void start_tile(Products<S>& y, const uint32_t (&keys)[S::kSteps][4], uint64_t queries) {
  begin_products();
#pragma unroll
  for (int kt = 0; kt < S::kSteps; ++kt)
    warpgroup_multiply_bf16(y, keys[kt], queries + kt / 4 * (S::kBoxBytes / 16) + kt % 4 * 2, kt != 0);
  commit_products();
}

// Adds the weights of a finished tile to the thread's two keys. lse: of the step, from the thread's first column on.
// ahead: the first key's position minus the step's.
template <class S, bool kDiagonal>
__device__ __forceinline__ void add_weights(Products<S>& y, const float* lse, float scale, int ahead,
                                            Counts (&counts)[2]) {
  const int column = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int part = 0; part < S::kQueries; part += kAdded) {
    float sum[2] = {};
#pragma unroll
    for (int n = part; n < part + kAdded; n += 8) {
      const float2 l = *reinterpret_cast<const float2*>(lse + n);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float x0 = fmaf(y[n / 2 + 2 * i], scale, -l.x), x1 = fmaf(y[n / 2 + 2 * i + 1], scale, -l.y);
        float w0 = exp2_approximate(x0), w1 = exp2_approximate(x1);
        if constexpr (kDiagonal) {
          const int key = ahead + i * 8;
          w0 = n + column >= key ? w0 : 0.0f;
          w1 = n + column + 1 >= key ? w1 : 0.0f;
        }
        sum[i] += w0 + w1;
      }
    }
    counts[0].add(sum[0]);
    counts[1].add(sum[1]);
  }
}

// The thread's part of the keys of its warpgroup, as the products take them.
template <class S>
__device__ __forceinline__ void load_keys(const ColumnArguments& p, int g, int64_t first,
                                          uint32_t (&keys)[S::kTiles][S::kSteps][4]) {
#pragma unroll
  for (int m = 0; m < S::kTiles; ++m)
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // bits of i: row / 8, column / 8
      const int64_t position = first + m * 64 + i % 2 * 8;
      const __nv_bfloat16* from = p.k + (position < p.L ? position : 0) * p.k_ld + static_cast<int64_t>(g) * S::kD +
                                  threadIdx.x % 4 * 2 + i / 2 * 8;
#pragma unroll
      for (int kt = 0; kt < S::kSteps; ++kt)
        keys[m][kt][i] = position < p.L ? __ldg(reinterpret_cast<const uint32_t*>(from + kt * 16)) : 0;
    }
}

// A warpgroup's way along the steps.
template <class S>
struct Pass {
  const ColumnArguments& p;
  const Ring<S>& ring;
  const uint32_t (&keys)[S::kTiles][S::kSteps][4];
  Counts (&counts)[S::kTiles][2];

  __device__ __forceinline__ const float* lse(int index) const {
    return ring.lse(index % S::kStages) + threadIdx.x % 4 * 2;
  }
  __device__ __forceinline__ uint64_t wait_for(int index) const {
    wait_phase(ring.filled(index % S::kStages), index / S::kStages & 1);
    return swizzled_descriptor(ring.queries(index % S::kStages));
  }
  __device__ __forceinline__ void release(int index) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(ring.emptied(index % S::kStages));
  }

  // A step, with a mask. ahead: see add_weights().
  __device__ __forceinline__ void one_step(int index, int ahead) {
    Products<S> y0, y1;
    const uint64_t queries = wait_for(index);
    start_tile<S>(y0, keys[0], queries);
    start_tile<S>(y1, keys[1], queries);
    wait_products<1>();
    products_written(y0);
    add_weights<S, true>(y0, lse(index), p.scale, ahead, counts[0]);
    wait_products<0>();
    products_written(y1);
    add_weights<S, true>(y1, lse(index), p.scale, ahead + 64, counts[1]);
    release(index);
  }

  // Two steps, both behind all keys: the products of the next tile are under way while a tile's weights are added. They
  // end with the two: ptxas lets none of a loop be under way from one turn to the next.
  __device__ __forceinline__ void two_steps(int index) {
    Products<S> y0, y1;
    const uint64_t first = wait_for(index);
    start_tile<S>(y0, keys[0], first);
    start_tile<S>(y1, keys[1], first);
    wait_products<1>();
    products_written(y0);
    add_weights<S, false>(y0, lse(index), p.scale, 0, counts[0]);
    const uint64_t second = wait_for(index + 1);
    start_tile<S>(y0, keys[0], second);
    wait_products<1>();
    products_written(y1);
    add_weights<S, false>(y1, lse(index), p.scale, 0, counts[1]);
    release(index);
    start_tile<S>(y1, keys[1], second);
    wait_products<1>();
    products_written(y0);
    add_weights<S, false>(y0, lse(index + 1), p.scale, 0, counts[0]);
    wait_products<0>();
    products_written(y1);
    add_weights<S, false>(y1, lse(index + 1), p.scale, 0, counts[1]);
    release(index + 1);
  }

  __device__ __forceinline__ void flush(int counted) {
#pragma unroll
    for (int m = 0; m < S::kTiles; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) counts[m][i].flush(static_cast<uint32_t>(counted) * (S::kQueries / kAdded));
  }

  // first: the position of the thread's first key.
  __device__ __forceinline__ void run(const QuerySteps<S::kQueries>& steps, int64_t key0, int64_t first) {
    const int total = steps.total();
    int counted = 0;
#pragma unroll 1
    for (int index = 0; index < total;) {
      const int64_t position = steps.at(p.run, index).position;
      // Positions rise from step to step.
      const int taken = index + 1 < total && position >= key0 + S::kKeys ? 2 : 1;
      if (taken == 2)
        two_steps(index);
      else
        one_step(index, static_cast<int>(max(first - position, int64_t{-4096})));
      index += taken;
      counted += taken;
      if (counted + 2 <= kCountedSteps) continue;
      flush(counted);
      counted = 0;
    }
    flush(counted);
  }
};

// What a warpgroup does: its keys against the queries of all steps.
template <class S>
__device__ __forceinline__ void add_columns(const ColumnArguments& p, const QuerySteps<S::kQueries>& steps,
                                            int64_t key0, const Ring<S>& ring) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) % 128 / 32;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128 - 1;
  const int head = static_cast<int>(blockIdx.y), g = (p.heads.q_begin + head) / p.heads.group - p.heads.kv_begin;
  const int64_t first = key0 + warpgroup * 64 * S::kTiles + warp * 16 + lane / 4;  // the thread's first key
  uint32_t keys[S::kTiles][S::kSteps][4];
  load_keys<S>(p, g, first, keys);
  Counts counts[S::kTiles][2];
  Pass<S>{p, ring, keys, counts}.run(steps, key0, first);
#pragma unroll
  for (int m = 0; m < S::kTiles; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int64_t all = counts[m][i].sum;
      all += __shfl_xor_sync(0xffffffffu, all, 1);
      all += __shfl_xor_sync(0xffffffffu, all, 2);
      const int64_t at = first + m * 64 + i * 8;
      if (lane % 4 == 0 && at < p.L) p.sums[static_cast<int64_t>(head) * p.L + at] = all;
    }
}

#endif

// Block (x, y): the keys from kKeys x on, of head y. The early keys of a head, which most queries see, come first, and
// one head after the other, so that its queries stay in the L2 cache.
template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    warpgroup_columns_kernel(const __grid_constant__ ColumnArguments p, const __grid_constant__ CUtensorMap rows) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char shared[];
  const Ring<S> ring{shared + (1024 - shared_address(shared) % 1024) % 1024};
  const int64_t key0 = static_cast<int64_t>(blockIdx.x) * S::kKeys;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < S::kStages; ++stage) {
      make_barrier(ring.filled(stage), 32);
      make_barrier(ring.emptied(stage), 4 * S::kWarpgroups);
    }
    show_barriers();
  }
  __syncthreads();
  const QuerySteps<S::kQueries> steps(p.run, key0);
  // Known to be uniform.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp < 4) {
    keep_registers<kFetchRegisters>();
    if (warp == 0) fetch<S>(p, rows, steps, ring);
  } else {
    take_registers<kWorkRegisters>();
    add_columns<S>(p, steps, key0, ring);
  }
#endif
}

template <class S>
void launch(Context& ctx, const ColumnArguments& p) {
  auto kernel = warpgroup_columns_kernel<S>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes));
  const CUtensorMap rows = describe_rows(p.q, p.L_lc, p.heads.Hq_lc * int64_t{S::kD}, p.q_ld, S::kQueries);
  const dim3 grid(blocks_for(p.L, S::kKeys), static_cast<unsigned>(p.heads.Hq_lc));
  kernel<<<grid, S::kThreads, S::kSharedBytes, stream_of(ctx)>>>(p, rows);
  RESTKV_KERNEL_CHECK();
}

}  // namespace

void warpgroup_columns(Context& ctx, const ColumnArguments& p) {
  RESTKV_CHECK(has_warpgroups(), "column sums by warpgroups: the device or the build has none (sm_90a)");
  RESTKV_CHECK(p.heads.d == 64 || p.heads.d == 128, "column sums by warpgroups: head size {}, 64 or 128 needed",
               p.heads.d);
  RESTKV_CHECK(p.L_lc < INT32_MAX, "column sums: {} queries on one rank", p.L_lc);
  if (p.L_lc == 0) return ctx.fill_zero(p.sums, p.heads.Hq_lc * p.L * static_cast<int64_t>(sizeof(int64_t)));
  if (p.heads.d == 64) return launch<Shape<64>>(ctx, p);
  return launch<Shape<128>>(ctx, p);
}

}  // namespace restkv::gpu
