// One block of threads computes the logits of one block of the grid for the query rows of one KV head: window queries
// stay in shared memory, keys pass through it once, logits are written once. The softmax partials are taken from the
// registers that hold the logits. What a block computes depends on the block alone, not on where it lies on the rank.
#include <cmath>

#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/gpu/softmax_weight.h"
#include "kvcache/gpu/tensor_core.h"
#include "kvcache/statistics/window_logits.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kKeys = 128;  // keys per step
constexpr int kStages = 2;

// kWarpsM warps stand on 32 query rows each, the others beside them on further keys of a step.
template <int kD, int kWarpsM>
struct Tile {
  static constexpr int kRows = 32 * kWarpsM;
  static constexpr int kWarpsN = 8 / kWarpsM;
  static constexpr int kWarpKeys = kKeys / kWarpsN;
  static constexpr int kPairs = kWarpKeys / 16;
  static constexpr int kRowBytes = kD * 2;
  static constexpr int kChunks = kD / 8;  // of 16 bytes per row
  static constexpr int kQueryBytes = kRows * kRowBytes;
  static constexpr int kStageBytes = kKeys * kRowBytes;
  static constexpr int kSharedBytes = kQueryBytes + kStages * kStageBytes;
  static_assert(kSharedBytes >= kWarpsN * kRows * 8);
};

struct Arguments {
  BlockGrid grid;
  HeadMap heads;
  int W;
  int64_t stride, q_ld, k_ld;
  float scale;
  const __nv_bfloat16* q;
  const __nv_bfloat16* k;
  float* logits;
  float2* partials;
};

// Chunks of a row change places with the row, so that the eight rows that one matrix of ldmatrix reads lie in
// different banks. Query rows are read eight in sequence, keys in the order of key_of().
__device__ inline int query_swizzle(int row) { return row & 7; }
__device__ inline int key_swizzle(int row) { return (row & 1) | ((row >> 1) & 6); }

// Which of sixteen keys stands in column n of matrix x (0 or 1): a thread then holds four neighbours after two
// products, and writes them as one vector.
__device__ inline int key_of(int n, int x) { return (n >> 1) * 4 + (n & 1) + 2 * x; }

template <class T, int kD>
__device__ void load_queries(const Arguments& p, int first_head, int row0, int rows, uint32_t shared) {
  for (int i = threadIdx.x; i < T::kRows * T::kChunks; i += kThreads) {
    const int r = i / T::kChunks, chunk = i % T::kChunks, row = row0 + r;
    const bool valid = row < rows;
    const int h = valid ? row / p.W : 0, w = valid ? row % p.W : 0;
    const __nv_bfloat16* from = p.q + w * p.q_ld + static_cast<int64_t>(first_head + h) * kD + chunk * 8;
    copy_async16(shared + r * T::kRowBytes + (chunk ^ query_swizzle(r)) * 16, from, valid);
  }
}

template <class T, int kD>
__device__ void load_keys(const Arguments& p, int g, int64_t local, int64_t first, int64_t count, uint32_t shared) {
  for (int i = threadIdx.x; i < kKeys * T::kChunks; i += kThreads) {
    const int r = i / T::kChunks, chunk = i % T::kChunks;
    const bool valid = first + r < count;
    const __nv_bfloat16* from = p.k + (local + (valid ? first + r : 0)) * p.k_ld + g * kD + chunk * 8;
    copy_async16(shared + r * T::kRowBytes + (chunk ^ key_swizzle(r)) * 16, from, valid);
  }
}

// Maximum and sum of exp(x - maximum) of what one thread, or several, have seen of a row.
struct Partial {
  float max = -INFINITY;
  float sum = 0.0f;
};

__device__ inline Partial merge(Partial a, Partial b) {
  Partial r;
  r.max = fmaxf(a.max, b.max);
  if (r.max == -INFINITY) return r;
  r.sum = a.sum * expf(a.max - r.max) + b.sum * expf(b.max - r.max);
  return r;
}

// The products of one step: acc[m][2 * pair + x] for query rows m * 16 + .. and the keys of key_of(., x).
template <class T, int kD>
__device__ void multiply_step(uint32_t queries, uint32_t keys, float (&acc)[2][2 * T::kPairs][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int query_row = warp / T::kWarpsN * 32 + (lane & 15);
  const int key_row = warp % T::kWarpsN * T::kWarpKeys + key_of(lane & 7, lane >> 4);
#pragma unroll
  for (int kt = 0; kt < kD / 16; ++kt) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int row = query_row + m * 16, chunk = kt * 2 + (lane >> 4);
      load_matrices(a[m], queries + row * T::kRowBytes + (chunk ^ query_swizzle(row)) * 16);
    }
#pragma unroll
    for (int pair = 0; pair < T::kPairs; ++pair) {
      uint32_t b[4];
      const int row = key_row + pair * 16, chunk = kt * 2 + ((lane >> 3) & 1);
      load_matrices(b, keys + row * T::kRowBytes + (chunk ^ key_swizzle(row)) * 16);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        multiply_bf16(acc[m][2 * pair], a[m], b[0], b[1]);
        multiply_bf16(acc[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Scales and masks one row's values of a step, stores them, and adds them to the row's partial. `first`: the first of
// this thread's keys in the block; `visible`: keys of the block that the row sees; `padded`: keys that are stored.
template <class T>
__device__ void finish_row(const float (&acc)[2 * T::kPairs][4], int half, float scale, int first, int visible,
                           int padded, float* out, Partial& partial) {
  float x[T::kPairs][4];
  float high = -INFINITY;
#pragma unroll
  for (int pair = 0; pair < T::kPairs; ++pair) {
    x[pair][0] = acc[2 * pair][2 * half] * scale;
    x[pair][1] = acc[2 * pair][2 * half + 1] * scale;
    x[pair][2] = acc[2 * pair + 1][2 * half] * scale;
    x[pair][3] = acc[2 * pair + 1][2 * half + 1] * scale;
    const int key = first + pair * 16;
    if (key + 4 > visible) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (key + j >= visible) x[pair][j] = -INFINITY;
    }
    if (key < padded)
      *reinterpret_cast<float4*>(out + pair * 16) = make_float4(x[pair][0], x[pair][1], x[pair][2], x[pair][3]);
#pragma unroll
    for (int j = 0; j < 4; ++j) high = fmaxf(high, x[pair][j]);
  }
  const float max = fmaxf(partial.max, high);
  if (max == -INFINITY) return;
  float sum = partial.sum * exp_term(partial.max - max);
#pragma unroll
  for (int pair = 0; pair < T::kPairs; ++pair)
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += exp_term(x[pair][j] - max);
  partial = {max, sum};
}

template <int kD, int kWarpsM>
__global__ void __launch_bounds__(kThreads, kD <= 128 ? 2 : 1) logits_kernel(Arguments p) {
  using T = Tile<kD, kWarpsM>;
  extern __shared__ __align__(128) unsigned char shared[];
  const int g = blockIdx.y, row0 = blockIdx.x * T::kRows, b = blockIdx.z;
  const int first_head = p.heads.first(g), rows = p.heads.count(g) * p.W;
  if (row0 >= rows) return;
  const int64_t local = p.grid.local(b), count = p.grid.count(b);
  const int64_t padded = b + 1 < p.grid.blocks ? count : p.stride - local;  // the padding behind the last block too
  const uint32_t queries = shared_address(shared), keys = queries + T::kQueryBytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp / T::kWarpsN * 32 + (lane >> 2);
  const int warp_key = warp % T::kWarpsN * T::kWarpKeys + (lane & 3) * 4;
  load_queries<T, kD>(p, first_head, row0, rows, queries);
  load_keys<T, kD>(p, g, local, 0, count, keys);

  Partial partial[4];
  int visible[4];
  float* out[4];  // of this thread's rows at its first key; null beyond the rows
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = row0 + warp_row + i * 8;
    const int64_t sees = p.grid.P + r % p.W + 1 - p.grid.global(b);
    visible[i] = static_cast<int>(max(int64_t{0}, min(sees, count)));
    out[i] = r < rows ? p.logits + (static_cast<int64_t>(first_head) * p.W + r) * p.stride + local + warp_key : nullptr;
  }
  const int steps = static_cast<int>((count + kKeys - 1) / kKeys);
  for (int step = 0; step < steps; ++step) {
    wait_copies();
    __syncthreads();  // the keys of this step are there, and nobody reads those of the step before
    if (step + 1 < steps)
      load_keys<T, kD>(p, g, local, (step + 1) * kKeys, count, keys + (step + 1) % kStages * T::kStageBytes);
    float acc[2][2 * T::kPairs][4] = {};
    multiply_step<T, kD>(queries, keys + step % kStages * T::kStageBytes, acc);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (out[i] != nullptr)
        finish_row<T>(acc[i / 2], i % 2, p.scale, step * kKeys + warp_key, visible[i], static_cast<int>(padded),
                      out[i] + step * kKeys, partial[i]);
  }

  __syncthreads();
  Partial* beside = reinterpret_cast<Partial*>(shared);  // [kWarpsN][kRows]
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    for (int offset = 1; offset < 4; offset *= 2)
      partial[i] = merge(partial[i], {__shfl_xor_sync(0xffffffffu, partial[i].max, offset),
                                      __shfl_xor_sync(0xffffffffu, partial[i].sum, offset)});
    if ((lane & 3) == 0) beside[warp % T::kWarpsN * T::kRows + warp_row + i * 8] = partial[i];
  }
  __syncthreads();
  const int r = threadIdx.x;
  if (r >= T::kRows || row0 + r >= rows) return;
  Partial all = beside[r];
  for (int n = 1; n < T::kWarpsN; ++n) all = merge(all, beside[n * T::kRows + r]);
  const int64_t row = static_cast<int64_t>(first_head) * p.W + row0 + r;
  p.partials[static_cast<int64_t>(b) * p.heads.Hq_lc * p.W + row] = make_float2(all.max, all.sum);
}

template <int kD, int kWarpsM>
void launch(Context& ctx, const Arguments& p, int rows) {
  using T = Tile<kD, kWarpsM>;
  auto kernel = logits_kernel<kD, kWarpsM>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes));
  const dim3 grid(blocks_for(rows, T::kRows), p.heads.Hkv_lc, p.grid.blocks);
  kernel<<<grid, kThreads, T::kSharedBytes, stream_of(ctx)>>>(p);
  RESTKV_KERNEL_CHECK();
}

template <int kD>
void launch(Context& ctx, const Arguments& p, int rows) {
  if (rows <= 32) return launch<kD, 1>(ctx, p, rows);
  if (rows <= 64) return launch<kD, 2>(ctx, p, rows);
  launch<kD, 4>(ctx, p, rows);
}

}  // namespace

void window_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& q_window,
                   const MatrixView& k, float* logits, float* partials) {
  if (shard.L_lc == 0 || heads.Hq_lc() == 0) return;
  RESTKV_CHECK(q_window.dtype == k.dtype, "window_logits: queries of {}, keys of {}", name_of(q_window.dtype),
               name_of(k.dtype));
  RESTKV_CHECK(shard.blocks.size() <= 65535 && heads.Hkv_lc() <= 65535, "window_logits: {} blocks, {} KV heads",
               shard.blocks.size(), heads.Hkv_lc());
  const int64_t d = heads.d;
  const bool tensor_cores =
      k.dtype == DType::bf16 && (d == 64 || d == 128 || d == 256) && aligned_rows(q_window, 16) && aligned_rows(k, 16);
  if (!tensor_cores) return plain_window_logits(ctx, heads, shard, q_window, k, logits, partials);
  const Arguments p{block_grid(shard),
                    head_map(heads),
                    static_cast<int>(shard.W),
                    shard.stride,
                    q_window.ld,
                    k.ld,
                    static_cast<float>(1.0 / std::sqrt(static_cast<double>(d))),
                    static_cast<const __nv_bfloat16*>(q_window.data),
                    static_cast<const __nv_bfloat16*>(k.data),
                    logits,
                    reinterpret_cast<float2*>(partials)};
  // Of a whole group, also where ranks share one: the order of a block's sums follows it.
  const int rows = static_cast<int>(heads.group()) * p.W;
  if (d == 64) return launch<64>(ctx, p, rows);
  if (d == 128) return launch<128>(ctx, p, rows);
  launch<256>(ctx, p, rows);
}

}  // namespace restkv::gpu
