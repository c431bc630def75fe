// Outputs of the window by products of warpgroups: per block of the grid and KV head the weights A [rows, positions]
// of all its query heads times the values [positions, d].
//
// Values are bf16 and exact. A weight is the sum of three bf16 (24 bits), so that what is multiplied is f32. The tensor
// cores cut off what does not fit their sums: these go over 64 positions at a time and are added up in f32, rounded.
// Each row of a product depends on its row of weights alone, and a block's positions are taken in their order from its
// beginning: the bits do not depend on where a block lies, nor on which heads a rank has.
//
// A warpgroup has 64 rows; the values of kChunk positions are in shared memory for all of them, several chunks ahead.
// A thread brings the logits of two rows for itself, as far ahead and to shared memory too, four neighbouring positions
// at a time: in a step of 16 positions they stand for the places 2t, 2t+1, 2t+8 and 2t+9 of the sum, and the values are
// put down in that order. In registers the logits could be a chunk ahead at most.
#include "dist/base/error.h"
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/gpu/softmax_weight.h"
#include "kvcache/gpu/tensor_core.h"
#include "kvcache/gpu/warpgroup.h"
#include "kvcache/statistics/window_output_kernels.h"

// Some constants are used only where the compiler is at code for sm_90a.
#pragma nv_diag_suppress 177

namespace restkv::gpu {
namespace {

constexpr int kWarpgroups = 2;
constexpr int kThreads = 128 * kWarpgroups;
constexpr int kRows = 64 * kWarpgroups;
constexpr int kChunk = 64;  // positions
constexpr int kSteps = kChunk / 16;
constexpr int kStages = 4;
constexpr int kBoxBytes = kChunk * 128;  // of 64 columns
constexpr int kParts = 3;                // of a weight
// Logits of a chunk, as float4: [step, row of two, thread].
constexpr int kLogitVectors = kSteps * 2 * kThreads;
constexpr int kLogitBytes = kLogitVectors * 16;

// Of a tile of kN columns.
template <int kN>
inline constexpr int kStageBytes = kN / 64 * kBoxBytes;
template <int kN>
inline constexpr int kSharedBytes = 1024 + kStages*(kStageBytes<kN> + kLogitBytes);  // begins at a multiple of 1024

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// What a block of threads works on.
struct Tile {
  const __nv_bfloat16* v;  // the first value of the grid's block and the tile's first column
  int64_t v_ld;
  int count;             // positions
  uint32_t ring;         // of chunks of values
  const float4* logits;  // of as many chunks, for this thread
};

// The values of a chunk, on their way; zeros behind the last position. Ends no group of copies.
template <int kN>
__device__ __forceinline__ void fetch_values(const Tile& tile, int chunk) {
  constexpr int kVectors = kN / 8, kPerThread = kChunk * kVectors / kThreads;
  const uint32_t stage = tile.ring + chunk % kStages * kStageBytes<kN>;
  const int column = static_cast<int>(threadIdx.x) % kVectors;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int j = i * (kThreads / kVectors) + static_cast<int>(threadIdx.x) / kVectors;
    const int row = j / 16 * 16 + j % 16 / 4 * 2 + j % 2 + j % 4 / 2 * 8;
    const int position = chunk * kChunk + j;
    const bool there = position < tile.count;
    copy_async16(stage + column / 8 * kBoxBytes + row * 128 + (column % 8 ^ row % 8) * 16,
                 tile.v + (there ? position : 0) * tile.v_ld + column * 8, there);
  }
}

// Two rows of logits and their softmax; rows that are not there have no weights.
struct Rows {
  const float* logits[2];
  float2 softmax[2];

  // The logits of a chunk, on their way. Behind the last position any of the row will do: values are zeros there.
  __device__ void fetch(const Tile& tile, int chunk) const {
    const uint32_t to = shared_address(tile.logits + chunk % kStages * kLogitVectors);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int position = chunk * kChunk + static_cast<int>(threadIdx.x) % 4 * 4 + step * 16;
#pragma unroll
      for (int i = 0; i < 2; ++i)
        copy_async16(to + (step * 2 + i) * kThreads * 16, logits[i] + (position < tile.count ? position : 0),
                     chunk * kChunk < tile.count);
    }
  }
  // As softmax_weight().
  __device__ float weight(float logit, int i) const {
    const float x = logit - softmax[i].x;
    return x >= -87.0f ? exp_term(x) * softmax[i].y : 0.0f;
  }
};

// The next eight bits of two numbers, which are taken off them.
__device__ __forceinline__ uint32_t take_part(float (&x)[2]) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x[0], x[1]);
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(&pair);
  x[0] -= __uint_as_float(bits << 16);
  x[1] -= __uint_as_float(bits & 0xffff0000u);
  return bits;
}

using Factors = uint32_t[kParts][4];

// The weights of 16 positions as the products take them, from the thread's logits.
__device__ __forceinline__ void weigh(const Rows& rows, const float4 (&x)[2], Factors& a) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float low[2] = {rows.weight(x[i].x, i), rows.weight(x[i].y, i)};
    float high[2] = {rows.weight(x[i].z, i), rows.weight(x[i].w, i)};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      a[part][i] = take_part(low);
      a[part][i + 2] = take_part(high);
    }
  }
}

template <int kN>
using Sums = float[kN / 2];

// Adds the products of a chunk.
template <int kN>
__device__ __forceinline__ void add_chunk(const Tile& tile, const Rows& rows, int chunk, Sums<kN>& total) {
  const float4* logits = tile.logits + chunk % kStages * kLogitVectors;
  const uint32_t stage = tile.ring + chunk % kStages * kStageBytes<kN>;
  Sums<kN> sum;
  Factors a[2];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (step >= 2) wait_products<1>();  // those that read these factors
    weigh(rows, {logits[step * 2 * kThreads], logits[(step * 2 + 1) * kThreads]}, a[step % 2]);
    const uint64_t values = columns_descriptor(stage + step * 2048, kBoxBytes);
    begin_products();
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      warpgroup_multiply_columns(sum, a[step % 2][part], values, step + part != 0);
    commit_products();
  }
  wait_products<0>();
  products_written(sum);
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) total[i] += sum[i];
}

// All chunks of a block, for the thread's two rows.
template <int kN>
__device__ __forceinline__ void add_block(const Tile& tile, const Rows& rows, bool works, Sums<kN>& total) {
  const int chunks = (tile.count + kChunk - 1) / kChunk;
  const auto fetch = [&](int chunk) {
    fetch_values<kN>(tile, chunk);
    if (works) rows.fetch(tile, chunk);
    commit_copies();
  };
  for (int chunk = 0; chunk < kStages - 1; ++chunk) fetch(chunk);
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    wait_groups<kStages - 2>();
    show_to_products();
    __syncthreads();  // the chunk is there, and nobody works with the one before
    fetch(chunk + kStages - 1);
    if (works) add_chunk<kN>(tile, rows, chunk, total);
  }
  wait_copies();
}

// Block (g, b, z): tile z of the rows and columns of KV head g in block b of the grid.
template <int kD, int kN>
__device__ __forceinline__ void tile_outputs(const WindowArguments& p, const __nv_bfloat16* v, int row_tiles,
                                             unsigned char* shared) {
  const int g = static_cast<int>(blockIdx.x), b = static_cast<int>(blockIdx.y);
  const int row0 = static_cast<int>(blockIdx.z) % row_tiles * kRows;
  const int column0 = static_cast<int>(blockIdx.z) / row_tiles * kN;
  const int count = p.heads.count(g) * p.W;
  if (row0 >= count) return;
  const int64_t local = p.grid.local(b), first = static_cast<int64_t>(p.heads.first(g)) * p.W;
  shared += (1024 - shared_address(shared) % 1024) % 1024;
  const Tile tile{v + local * p.v_ld + g * kD + column0, p.v_ld, static_cast<int>(p.grid.count(b)),
                  shared_address(shared),
                  reinterpret_cast<const float4*>(shared + kStages * kStageBytes<kN>) + threadIdx.x};
  // Known to be uniform.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  const int lane = static_cast<int>(threadIdx.x) % 32, row = row0 + warp * 16 + lane / 4;
  Rows rows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t at = first + min(row + i * 8, count - 1);
    const float2 m = __ldg(p.softmax + at);
    const bool there = row + i * 8 < count && m.y > 0.0f;
    rows.logits[i] = p.logits + at * p.stride + local;
    asm("" : "+l"(rows.logits[i]));  // kept as it is, not computed anew from the arguments for every copy
    rows.softmax[i] = {there ? m.x : INFINITY, there ? m.y : 0.0f};
  }
  Sums<kN> total = {};
  add_block<kN>(tile, rows, row0 + warp / 4 * 64 < count, total);
  float* out = p.partials + (static_cast<int64_t>(b) * p.heads.Hq_lc * p.W + first) * kD + column0 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (row + i * 8 < count)
#pragma unroll
      for (int j = 0; j < kN / 8; ++j)
        *reinterpret_cast<float2*>(out + static_cast<int64_t>(row + i * 8) * kD + j * 8) =
            make_float2(total[4 * j + 2 * i], total[4 * j + 2 * i + 1]);
}

#endif

template <int kD>
__global__ void __launch_bounds__(kThreads, 1)
    outputs_kernel(const __grid_constant__ WindowArguments p, const __nv_bfloat16* v, int row_tiles) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char shared[];
  tile_outputs<kD, (kD < 128 ? kD : 128)>(p, v, row_tiles, shared);
#endif
}

template <int kD>
void launch(Context& ctx, const WindowArguments& p, const __nv_bfloat16* v, int group) {
  constexpr int kN = kD < 128 ? kD : 128, kBytes = kSharedBytes<kN>;
  auto kernel = outputs_kernel<kD>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const unsigned row_tiles = blocks_for(static_cast<int64_t>(group) * p.W, kRows);
  kernel<<<dim3(p.heads.Hkv_lc, p.grid.blocks, row_tiles * (kD / kN)), kThreads, kBytes, stream_of(ctx)>>>(
      p, v, static_cast<int>(row_tiles));
  RESTKV_KERNEL_CHECK();
}

}  // namespace

void warpgroup_outputs(Context& ctx, const WindowArguments& p, const __nv_bfloat16* v, int group) {
  RESTKV_CHECK(has_warpgroups(), "outputs of the window by warpgroups: the device or the build has none (sm_90a)");
  if (p.heads.d == 64) return launch<64>(ctx, p, v, group);
  if (p.heads.d == 256) return launch<256>(ctx, p, v, group);
  RESTKV_CHECK(p.heads.d == 128, "outputs of the window by warpgroups: head size {}, 64, 128 or 256 needed", p.heads.d);
  launch<128>(ctx, p, v, group);
}

}  // namespace restkv::gpu
