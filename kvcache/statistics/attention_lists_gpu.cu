// window_attention() that also does the selection's pass over the logits (select/radix_select_gpu.cu): what a warp has
// in shared memory is reduced over the rows, and compared with each row's bounds.
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/gpu/row_state.h"
#include "kvcache/gpu/softmax_weight.h"
#include "kvcache/gpu/tensor_core.h"
#include "kvcache/statistics/window_attention.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 8;             // that a warp has in hand together: a word of bits per lane
constexpr int kWarpPositions = 128;  // four per lane

// Global positions of local ones: two runs.
struct Positions {
  int64_t split = 0;  // the first local index of the second run
  int64_t lower = 0, upper = 0;

  explicit Positions(const std::vector<Segment>& runs) {
    RESTKV_CHECK(!runs.empty() && runs.size() <= 2, "{} runs of positions", runs.size());
    lower = runs[0].global - runs[0].local;
    split = runs[0].local + runs[0].count;
    if (runs.size() == 2) upper = runs[1].global - runs[1].local;
  }
  __device__ int64_t global(int64_t local) const { return local + (local < split ? lower : upper); }
};

struct Arguments {
  const float* logits;
  const float2* softmax;
  int W;
  int64_t stride, total;
  Positions positions;
  RowReducer reduce;
  RowState* states;
  uint64_t* candidates;
  float* a;
};

// What a warp works on. Bits of the row j in hand: word j * 4 + c is of the positions lane * 4 + c.
struct WarpShared {
  float logits[kRows][kWarpPositions];
  uint32_t in[kRows * 4];     // at least `low`
  uint32_t above[kRows * 4];  // above `high`
};

constexpr int64_t shared_bytes(int64_t W) {
  return static_cast<int64_t>(kWarps * sizeof(WarpShared)) + W * static_cast<int64_t>(sizeof(float4));
}

// Rows [w0, w0 + kRows) of the lane's four positions, on their way; rows behind the last are left out.
__device__ void load_rows(const float* from, int64_t stride, int w0, int W, WarpShared& s) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int j = 0; j < kRows; ++j)
    if (w0 + j < W) copy_async16(shared_address(&s.logits[j][lane * 4]), from + (w0 + j) * stride, true);
}

__device__ void vote(float4 x, float low, float high, bool bounded, int j, WarpShared& s) {
  const uint32_t full = 0xffffffffu;
  const uint4 in = make_uint4(__ballot_sync(full, x.x >= low), __ballot_sync(full, x.y >= low),
                              __ballot_sync(full, x.z >= low), __ballot_sync(full, x.w >= low));
  if (threadIdx.x % 32 == 0) *reinterpret_cast<uint4*>(s.in + j * 4) = in;
  if (!bounded) return;
  const uint4 above = make_uint4(__ballot_sync(full, x.x > high), __ballot_sync(full, x.y > high),
                                 __ballot_sync(full, x.z > high), __ballot_sync(full, x.w > high));
  if (threadIdx.x % 32 == 0) *reinterpret_cast<uint4*>(s.above + j * 4) = above;
}

// The sum of the places of the bits that are set.
__device__ uint32_t sum_of_bits(uint32_t word) {
  return __popc(word & 0xaaaaaaaau) + 2 * __popc(word & 0xccccccccu) + 4 * __popc(word & 0xf0f0f0f0u) +
         8 * __popc(word & 0xff00ff00u) + 16 * __popc(word & 0xffff0000u);
}

// Adds what the four lanes of a row found above its upper bound. By the whole warp.
__device__ void add_above(uint32_t word, uint32_t first, RowState* state) {
  uint32_t count = __popc(word);
  unsigned long long position = static_cast<unsigned long long>(count) * first + 4 * sum_of_bits(word);
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    count += __shfl_xor_sync(0xffffffffu, count, step);
    position += __shfl_xor_sync(0xffffffffu, position, step);
  }
  if (threadIdx.x % 4 != 0 || count == 0) return;
  atomicAdd(&state->above, count);
  atomicAdd(&state->position, position);
}

// Lists the candidates among the rows in hand: lane l has the word l of each array of bits. `first`: local index of the
// warp's first logit. `valid`: the bits of positions that there are.
__device__ void list_rows(const Arguments& p, const WarpShared& s, bool bounded, int w0, int64_t first,
                          uint32_t valid) {
  const uint32_t full = 0xffffffffu;
  const int lane = static_cast<int>(threadIdx.x % 32), j = lane / 4, c = lane % 4;
  const bool there = w0 + j < p.W;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * p.W + (there ? w0 + j : w0);
  RowState* state = p.states + row;
  uint32_t word = there ? s.in[lane] & valid : 0;
  if (bounded) {
    const uint32_t above = there ? s.above[lane] & valid : 0;
    add_above(above, static_cast<uint32_t>(first) + c, state);
    word &= ~above;
  }
  const uint32_t count = __popc(word);
  uint32_t upto = count;
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const uint32_t left = __shfl_up_sync(full, upto, step, 4);
    if (c >= step) upto += left;
  }
  uint32_t base = 0;
  if (c == 3 && upto != 0) base = atomicAdd(&state->candidates, upto);
  uint32_t at = __shfl_sync(full, base, 3, 4) + upto - count;
  uint64_t* list = p.candidates + row * kCandidates;
  const float* logits = s.logits[j];
  for (; word != 0; word &= word - 1, ++at) {
    const int offset = 4 * (__ffs(static_cast<int>(word)) - 1) + c;
    if (at < kCandidates) list[at] = rank_of(logits[offset], p.positions.global(first + offset));
  }
}

// Block (h, y): kThreads * 4 positions of head h, from the last (see window_attention_gpu.cu). Warps work alone.
template <bool kBounded>
__global__ void __launch_bounds__(kThreads) attention_lists_kernel(Arguments p) {
  extern __shared__ __align__(16) unsigned char shared[];
  WarpShared& s = reinterpret_cast<WarpShared*>(shared)[threadIdx.x / 32];
  float4* rows = reinterpret_cast<float4*>(shared + kWarps * sizeof(WarpShared));  // maximum, 1 / sum, low, high
  const int64_t head_row = static_cast<int64_t>(blockIdx.x) * p.W;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t first = (static_cast<int64_t>(gridDim.y - 1 - blockIdx.y) * kWarps + threadIdx.x / 32) * kWarpPositions;
  const int64_t i = first + lane * 4;
  const float* from = p.logits + head_row * p.stride + (i < p.stride ? i : 0);
  load_rows(from, p.stride, 0, p.W, s);
  for (int w = static_cast<int>(threadIdx.x); w < p.W; w += kThreads) {
    const float2 m = __ldg(p.softmax + head_row + w);
    rows[w] = make_float4(m.x, m.y, p.states[head_row + w].low, p.states[head_row + w].high);
  }
  __syncthreads();
  // Of the positions first + 4 * bit + lane % 4 those below `total`.
  const int64_t bits = (p.total - first - lane % 4 + 3) / 4;
  const uint32_t valid = bits >= 32 ? 0xffffffffu : bits <= 0 ? 0 : (1u << bits) - 1;

  float state[4] = {};
  for (int w0 = 0; w0 < p.W; w0 += kRows) {
    wait_copies();
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      if (w0 + j >= p.W) break;
      const float4 x = *reinterpret_cast<const float4*>(&s.logits[j][lane * 4]);
      const float4 m = rows[w0 + j];
      const float2 softmax = make_float2(m.x, m.y);
      state[0] = p.reduce.add(state[0], softmax_weight(x.x, softmax), w0 + j);
      state[1] = p.reduce.add(state[1], softmax_weight(x.y, softmax), w0 + j);
      state[2] = p.reduce.add(state[2], softmax_weight(x.z, softmax), w0 + j);
      state[3] = p.reduce.add(state[3], softmax_weight(x.w, softmax), w0 + j);
      vote(x, m.z, m.w, kBounded, j, s);
    }
    __syncwarp();
    list_rows(p, s, kBounded, w0, first, valid);
    __syncwarp();  // all have read what the next copies and votes write over
    load_rows(from, p.stride, w0 + kRows, p.W, s);
  }
  if (i < p.stride)
    *reinterpret_cast<float4*>(p.a + blockIdx.x * p.stride + i) = make_float4(
        p.reduce.finish(state[0]), p.reduce.finish(state[1]), p.reduce.finish(state[2]), p.reduce.finish(state[3]));
}

}  // namespace

void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a,
                      const CandidateLists& lists) {
  if (shard.L_lc == 0 || heads.Hq_lc() == 0) return;
  const dim3 grid(static_cast<unsigned>(heads.Hq_lc()), blocks_for(shard.stride, 4 * kThreads));
  const int64_t bytes = shared_bytes(shard.W);
  RESTKV_CHECK(grid.y <= 65535, "window_attention: {} positions on one rank", shard.stride);
  RESTKV_CHECK(shard.W <= kMostListedRows, "window_attention: {} window rows with lists", shard.W);
  RESTKV_CHECK(takes_all_ascending(reduction), "window_attention: lists come with all rows, in ascending order");
  const Positions positions(shard.all);
  RESTKV_CHECK(!lists.bounded || (positions.lower == 0 && positions.upper == 0),
               "window_attention: sums of positions where local indices are not global ones");
  const Arguments p{logits,
                    reinterpret_cast<const float2*>(softmax),
                    static_cast<int>(shard.W),
                    shard.stride,
                    shard.L_lc,
                    positions,
                    RowReducer(reduction, alpha, shard.W),
                    lists.states,
                    lists.candidates,
                    a};
  auto kernel = lists.bounded ? attention_lists_kernel<true> : attention_lists_kernel<false>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  kernel<<<grid, kThreads, static_cast<size_t>(bytes), stream_of(ctx)>>>(p);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
