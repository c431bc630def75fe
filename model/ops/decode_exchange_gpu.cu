// One exchange among GPUs: push, poll, fold. The next kernel may take its places, and fetch its weights, as soon as all
// blocks are under way, so most of the wait for the other ranks costs nothing.
#include <algorithm>

#include "dist/base/gpu_launch.h"
#include "dist/base/gpu_math.h"
#include "dist/comm/peer_exchange.h"
#include "model/ops/decode_exchange.h"

namespace restkv::gpu {
namespace {

using Half = __nv_bfloat16;
constexpr int kThreads = 128;
constexpr int kBlocksPerSm = 4;  // at once, whatever else the registers hold: see peer_exchange.h

struct SumArgs {
  PeerView peers;
  const float* terms;  // [batch, H]
  float* x;            // [batch, H]
  Half* weighted;      // [batch, H]
  float* square_sums;  // [batch, padded / 16]
  const float* norm;   // [H]
  int batch, H;
  int padded;  // H rounded up to whole partial sums
  bool replace;
};

// Elements i and i + 1 of row b.
struct Pair {
  int b, i;
  int64_t at;  // of the first one in [batch, H]
  bool low, high;

  __device__ Pair(const SumArgs& a, int unit) {
    const int per_row = a.padded / 2;
    b = unit / per_row;
    i = (unit - b * per_row) * 2;
    at = static_cast<int64_t>(b) * a.H + i;
    low = b < a.batch && i < a.H;
    high = b < a.batch && i + 1 < a.H;
  }
  __device__ float2 load(const float* from) const {
    return make_float2(low ? __ldcg(from + at) : 0.0f, high ? __ldcg(from + at + 1) : 0.0f);
  }
  __device__ int64_t word(const SumArgs& a) const { return static_cast<int64_t>(b) * a.padded + i; }
};

template <int N>
__device__ float2 fold(const PeerView& p, const float2 (&values)[N], float2 own) {
  float2 sum = p.rank == 0 ? own : values[0];
#pragma unroll
  for (int r = 1; r < N; ++r) {
    if (r >= p.size) break;
    const float2 part = r == p.rank ? own : values[r];
    sum = make_float2(__fadd_rn(sum.x, part.x), __fadd_rn(sum.y, part.y));
  }
  return sum;
}

template <int N>
__global__ void __launch_bounds__(kThreads) sum_kernel(const __grid_constant__ SumArgs a) {
  let_next_start();
  wait_for_previous();
  const uint32_t epoch = begin_exchange(a.peers);
  const int total = a.batch * (a.padded / 2), stride = gridDim.x * kThreads, lane = threadIdx.x % 32;
  const int first = blockIdx.x * kThreads + threadIdx.x;
  for (int unit = first; unit < total; unit += stride) {
    const Pair pair(a, unit);
    const float2 own = pair.load(a.terms);
    push_to_peers<N>(a.peers, pair.word(a), epoch, own.x, own.y);
  }
  // Whole warps, for the sums of squares; eight threads hold the sixteen elements of one.
  for (int start = first - lane; start < total; start += stride) {
    const Pair pair(a, start + lane);
    const float2 own = pair.load(a.terms), before = a.replace ? make_float2(0.0f, 0.0f) : pair.load(a.x);
    const float norm_low = pair.low ? a.norm[pair.i] : 0.0f, norm_high = pair.high ? a.norm[pair.i + 1] : 0.0f;
    float2 x = make_float2(0.0f, 0.0f);
    if (pair.low) {
      float2 values[N];
      poll_words<N>(a.peers, pair.word(a), epoch, values);
      x = fold<N>(a.peers, values, own);
      if (!a.replace) x = make_float2(__fadd_rn(before.x, x.x), __fadd_rn(before.y, x.y));
      a.x[pair.at] = x.x;
      a.weighted[pair.at] = __float2bfloat16(x.x * norm_low);
    }
    if (pair.high) {
      a.x[pair.at + 1] = x.y;
      a.weighted[pair.at + 1] = __float2bfloat16(x.y * norm_high);
    } else {
      x.y = 0.0f;
    }
    // In the order of stream_kernel (decode_stream_gpu.cu): elements 8 apart, then 1, 2 and 4 apart.
    float low = __fmul_rn(x.x, x.x), high = __fmul_rn(x.y, x.y);
    low = __fadd_rn(low, __shfl_xor_sync(0xffffffffu, low, 4));
    high = __fadd_rn(high, __shfl_xor_sync(0xffffffffu, high, 4));
    float sum = __fadd_rn(low, high);
    sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 1));
    sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 2));
    if (pair.low && pair.i % kSquareSumRows == 0)
      a.square_sums[(static_cast<int64_t>(pair.b) * a.padded + pair.i) / kSquareSumRows] = sum;
  }
}

struct MergeArgs {
  PeerView peers;
  PartialExchange own;
};

template <int N>
__global__ void __launch_bounds__(kThreads) exchange_merge_kernel(const __grid_constant__ MergeArgs a) {
  let_next_start();
  wait_for_previous();
  const uint32_t epoch = begin_exchange(a.peers);
  const int rows = static_cast<int>(a.own.rows), d = static_cast<int>(a.own.d), half = d / 2;
  const int first = blockIdx.x * kThreads + threadIdx.x, stride = gridDim.x * kThreads;
  for (int unit = first; unit < rows * (half + 1); unit += stride) {
    const int row = unit / (half + 1), i = unit - row * (half + 1);
    const float* from = a.own.out + static_cast<int64_t>(row) * d + 2 * i;
    const float low = i < half ? __ldcg(from) : __ldcg(a.own.lse + row), high = i < half ? __ldcg(from + 1) : 0.0f;
    push_to_peers<N>(a.peers, static_cast<int64_t>(row) * (d + 2) + 2 * i, epoch, low, high);
  }
  for (int unit = first; unit < rows * half; unit += stride) {
    const int row = unit / half, i = unit - row * half;
    const int64_t at = static_cast<int64_t>(row) * d + 2 * i, word = static_cast<int64_t>(row) * (d + 2);
    const float2 own = make_float2(__ldcg(a.own.out + at), __ldcg(a.own.out + at + 1));
    const float own_lse = __ldcg(a.own.lse + row);
    float2 lse[N], out[N];
    poll_words<N>(a.peers, word + d, epoch, lse);
    poll_words<N>(a.peers, word + 2 * i, epoch, out);
    // As merge_kernel (decode_step_gpu.cu), to the bit.
    float highest = -INFINITY, total = 0.0f;
#pragma unroll
    for (int r = 0; r < N; ++r) {
      if (r >= a.peers.size) break;
      if (r == a.peers.rank) lse[r].x = own_lse, out[r] = own;
      highest = fmaxf(highest, lse[r].x);
    }
    const float base = highest == -INFINITY ? 0.0f : highest;
#pragma unroll
    for (int r = 0; r < N; ++r)
      if (r < a.peers.size) total += expf(lse[r].x - base);
    if (i == 0 && a.own.merged_lse != nullptr) a.own.merged_lse[row] = base + logf(total);
    const float scale = total > 0.0f ? 1.0f / total : 0.0f;
    float2 x = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int r = 0; r < N; ++r) {
      if (r >= a.peers.size) break;
      const float w = expf(lse[r].x - base);
      if (w > 0.0f) x = make_float2(fmaf(w, out[r].x, x.x), fmaf(w, out[r].y, x.y));
    }
    auto* to = static_cast<Half*>(a.own.merged_bf16) + at;
    *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(x.x * scale, x.y * scale);
  }
}

struct ColumnArgs {
  PeerView peers;
  const float* own;
  int64_t own_ld;
  float* out;  // [rows, cols]
  int64_t cols;
  int rows;
  int first[kMaxPeers], width[kMaxPeers];
};

// Pairs of words per row. A rank without columns sends one all the same: nobody may end an exchange that another rank
// has not begun.
__device__ int column_units(const ColumnArgs& a, int r) { return max((a.width[r] + 1) / 2, 1); }

// Two neighbours of a slice; a slice of an odd width ends with one.
__device__ void store_pair(const ColumnArgs& a, int r, int row, int i, float2 x) {
  float* to = a.out + row * a.cols + a.first[r] + i;
  if (i < a.width[r]) to[0] = x.x;
  if (i + 1 < a.width[r]) to[1] = x.y;
}

__global__ void __launch_bounds__(kThreads) columns_kernel(const __grid_constant__ ColumnArgs a) {
  let_next_start();
  wait_for_previous();
  const uint32_t epoch = begin_exchange(a.peers);
  const PeerView& p = a.peers;
  const int first = blockIdx.x * kThreads + threadIdx.x, stride = gridDim.x * kThreads;
  const int own_units = column_units(a, p.rank), own_width = a.width[p.rank];
  for (int unit = first; unit < a.rows * own_units; unit += stride) {
    const int row = unit / own_units, i = (unit - row * own_units) * 2;
    const float* from = a.own + row * a.own_ld + i;
    const float2 x = make_float2(i < own_width ? __ldcg(from) : 0.0f, i + 1 < own_width ? __ldcg(from + 1) : 0.0f);
    push_to_peers<kMaxPeers>(p, 2 * static_cast<int64_t>(unit), epoch, x.x, x.y);
    store_pair(a, p.rank, row, i, x);
  }
  // Begins with the next rank: all start elsewhere.
  for (int step = 1; step < p.size; ++step) {
    const int r = (p.rank + step) % p.size, units = column_units(a, r);
    const uint64_t* slot = slot_of(p, p.rank, r, epoch);
    for (int unit = first; unit < a.rows * units; unit += stride) {
      Patience patience;
      Words words = peek_words(slot + 2 * static_cast<int64_t>(unit));
      while (!has_epoch(words, epoch) && !patience.ends(p, r, epoch))
        words = peek_words(slot + 2 * static_cast<int64_t>(unit));
      const int row = unit / units;
      store_pair(a, r, row, (unit - row * units) * 2, make_float2(payload_of(words.low), payload_of(words.high)));
    }
  }
}

__global__ void __launch_bounds__(256)
    place_kernel(const float* part, int width, float* out, int64_t cols, int64_t first) {
  let_next_start();
  wait_for_previous();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t row = blockIdx.y;
  if (i < width) out[row * cols + first + i] = __ldcg(part + row * width + i);
}

// Enough threads for `units`, but never more blocks than fit at once.
dim3 grid_for(const Context& ctx, int64_t units) {
  const int64_t most = int64_t{kBlocksPerSm} * ctx.gpu()->multiprocessors();
  return dim3(static_cast<unsigned>(std::clamp<int64_t>((units + kThreads - 1) / kThreads, 1, most)));
}

template <class Args>
void launch_exchange(Context& ctx, const Args& args, int64_t units, void (*two)(Args), void (*four)(Args),
                     void (*eight)(Args)) {
  auto* kernel = args.peers.size <= 2 ? two : args.peers.size <= 4 ? four : eight;
  launch_dependent(kernel, grid_for(ctx, units), dim3(kThreads), 0, stream_of(ctx), args);
}

}  // namespace

void sum_into_stream(Context& ctx, const PeerView& peers, const Tensor& terms, const Tensor& norm,
                     const DecodeStream& stream, bool replace) {
  SumArgs args{};
  args.peers = peers;
  args.terms = terms.data<float>();
  args.x = stream.x.data<float>();
  args.weighted = static_cast<Half*>(stream.weighted.raw());
  args.square_sums = stream.square_sums.data<float>();
  args.norm = norm.data<float>();
  args.batch = static_cast<int>(stream.batch());
  args.H = static_cast<int>(stream.hidden());
  args.padded = static_cast<int>(stream.square_sums.size(1) * kSquareSumRows);
  args.replace = replace;
  launch_exchange(ctx, args, int64_t{args.batch} * args.padded / 2, sum_kernel<2>, sum_kernel<4>, sum_kernel<8>);
}

void exchange_and_merge(Context& ctx, const PeerView& peers, const PartialExchange& args) {
  static_assert(kMaxPeers == 8);
  launch_exchange(ctx, MergeArgs{peers, args}, args.rows * (args.d / 2 + 1), exchange_merge_kernel<2>,
                  exchange_merge_kernel<4>, exchange_merge_kernel<8>);
}

void exchange_columns(Context& ctx, const PeerView& peers, const ColumnExchange& args) {
  ColumnArgs a{};
  a.peers = peers;
  a.own = args.own.row<float>(0);
  a.own_ld = args.own.ld;
  a.out = args.out;
  a.cols = args.cols;
  a.rows = static_cast<int>(args.own.rows);
  for (int r = 0; r < peers.size; ++r) {
    a.first[r] = static_cast<int>(args.columns[static_cast<size_t>(r)].begin);
    a.width[r] = static_cast<int>(args.columns[static_cast<size_t>(r)].size());
  }
  const int64_t units = column_exchange_words(args.columns, args.own.rows) / 2;
  launch_dependent(columns_kernel, grid_for(ctx, units), dim3(kThreads), 0, stream_of(ctx), a);
}

void place_columns(Context& ctx, const float* part, int64_t width, int64_t rows, float* out, int64_t cols,
                   int64_t first) {
  const dim3 grid(static_cast<unsigned>((width + 255) / 256), static_cast<unsigned>(rows));
  launch_dependent(place_kernel, grid, dim3(256), 0, stream_of(ctx), part, static_cast<int>(width), out, cols, first);
}

}  // namespace restkv::gpu
