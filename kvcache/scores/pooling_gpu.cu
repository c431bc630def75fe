// Smoothing along the positions. A thread has four neighbouring outputs and walks along the scores that any of them
// needs, so each score is read once for four sums; each sum still runs from the first to the last position of its
// window, one addition after the other: the bits are those of the CPU, and the same on every layout.
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/runs.h"
#include "kvcache/scores/pooling.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kOutputs = 4;  // per thread
constexpr int kTile = kThreads * kOutputs;
constexpr int kSlice = 1024;  // positions of a window taken at a time

template <PoolEdge edge>
__device__ void take(float& value, float x) {
  if constexpr (edge == PoolEdge::lowest)
    value = value > x ? value : x;
  else
    value += x;
}

// Where the scores of one run's neighbourhood lie, of one row: `count` positions from `first` on at `own`, the `reach`
// before them end at `before`, the `reach` behind them begin at `behind`.
struct RunScores {
  const float* own;
  int64_t first, count;
  const float* before;
  const float* behind;
  int64_t reach;

  // A block reads as many scores for the last piece of a run as for any other: nobody uses those out of reach.
  __device__ float at(int64_t position) const {
    const int64_t i = position - first;
    if (i < -reach || i >= count + reach) return 0.0f;
    return i < 0 ? before[i] : i < count ? own[i] : behind[i - count];
  }
};

// Of both runs; rows are `stride` apart, in the strips of neighbours `strip_stride`.
struct Sources {
  RunScores run[2] = {};
  int64_t stride = 0, strip_stride = 0, reach = 0;

  // Field by field: an index into kernel parameters would copy them to local memory.
  __device__ RunScores of(bool lower, int64_t row) const {
    return {(lower ? run[0].own : run[1].own) + row * stride,
            lower ? run[0].first : run[1].first,
            lower ? run[0].count : run[1].count,
            (lower ? run[0].before : run[1].before) + row * strip_stride,
            (lower ? run[0].behind : run[1].behind) + row * strip_stride,
            reach};
  }
};

Sources sources_of(const LocalShard& shard, const PastScores& scores, int64_t rows) {
  Sources result;
  const float* values = scores.values.data<float>();
  result.stride = scores.by_position ? shard.P : shard.stride;
  result.strip_stride = kEdgeStrips * scores.reach;
  result.reach = scores.reach;
  // Of one rank local order is that of the positions, and both runs are one.
  const bool whole = scores.by_position || scores.edges.empty();
  const auto strip = [&](EdgeStrip s) {
    return s.rank < 0 ? values : scores.edges.data<float>() + (s.rank * rows * kEdgeStrips + s.strip) * scores.reach;
  };
  for (size_t r = 0; r < shard.past.size(); ++r) {
    const Segment& s = shard.past[r];
    if (whole)
      result.run[r] = {values, 0, shard.P, values, values, 0};
    else
      result.run[r] = {values + s.local,
                       s.global,
                       s.count,
                       strip(scores.neighbours.before[r]) + scores.reach,
                       strip(scores.neighbours.behind[r]),
                       scores.reach};
  }
  return result;
}

// The score at a position that may lie outside [0, P).
template <PoolEdge edge>
__device__ float score_at(const RunScores& scores, int64_t P, int64_t position) {
  if constexpr (edge == PoolEdge::replicate) {
    return scores.at(position < 0 ? 0 : position >= P ? P - 1 : position);
  } else {
    const float outside = edge == PoolEdge::lowest ? -INFINITY : 0.0f;
    return position < 0 || position >= P ? outside : scores.at(position);
  }
}

// Adds near[4 t + o + j], j < width, to value[o].
template <PoolEdge edge>
__device__ void take_slice(const float4* near, int width, float (&value)[kOutputs]) {
  const float4* mine = near + threadIdx.x;
  // The first group of four scores, and those at the end, are not in every output's window.
  const int whole = width / 4;
  auto partial = [&](int group) {
    const float4 v = mine[group];
    const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int o = 0; o < kOutputs; ++o)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int j = 4 * group + c - o;
        if (j >= 0 && j < width) take<edge>(value[o], x[c]);
      }
  };
  partial(0);
  for (int group = 1; group < whole; ++group) {
    const float4 v = mine[group];
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      take<edge>(value[o], v.x);
      take<edge>(value[o], v.y);
      take<edge>(value[o], v.z);
      take<edge>(value[o], v.w);
    }
  }
  for (int group = whole > 1 ? whole : 1; 4 * group < width + kOutputs - 1; ++group) partial(group);
}

// One block per piece of kTile positions (x) and row (y).
template <PoolEdge edge>
__global__ void __launch_bounds__(kThreads)
    pool(Pieces pieces, Sources sources, int64_t P, const PoolWindow* windows, float* pooled, int64_t stride) {
  __shared__ __align__(16) float near[kTile + kSlice + 8];
  const int64_t row = blockIdx.y;
  const Piece piece = pieces.at(static_cast<int>(blockIdx.x));
  const RunScores scores = sources.of(static_cast<int>(blockIdx.x) < pieces.first_run, row);
  const PoolWindow window = windows[row];
  const int64_t width = window.last - window.first + 1;
  // -0 leaves the sign of a first -0 alone, as starting with the first score does.
  float value[kOutputs];
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) value[o] = edge == PoolEdge::lowest ? -INFINITY : -0.0f;
  for (int64_t done = 0; done < width; done += kSlice) {
    const int slice = static_cast<int>(width - done < kSlice ? width - done : kSlice);
    __syncthreads();
#pragma unroll 5
    for (int i = static_cast<int>(threadIdx.x); i < kTile + slice + 3; i += kThreads)
      near[i] = score_at<edge>(scores, P, piece.global + window.first + done + i);
    __syncthreads();
    take_slice<edge>(reinterpret_cast<const float4*>(near), slice, value);
  }
  if constexpr (edge != PoolEdge::lowest) {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) value[o] = __fdiv_rn(value[o], static_cast<float>(width));
  }
  const int first = static_cast<int>(threadIdx.x) * kOutputs;
  float* out = pooled + row * stride + piece.local + first;
  if (first + kOutputs <= piece.count && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
    *reinterpret_cast<float4*>(out) = make_float4(value[0], value[1], value[2], value[3]);
    return;
  }
  for (int o = 0; o < kOutputs; ++o)
    if (first + o < piece.count) out[o] = value[o];
}

__global__ void fill_windows(PoolWindow window, int64_t rows, PoolWindow* windows) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < rows) windows[row] = window;
}

}  // namespace

void pool_scores(Context& ctx, const LocalShard& shard, const PastScores& scores, int64_t rows, PoolEdge edge,
                 const PoolWindow* windows, float* pooled) {
  const Pieces pieces(Runs(shard.past), kTile);
  if (rows == 0 || pieces.count() == 0) return;
  RESTKV_CHECK(rows <= 65535, "{} rows", rows);
  const dim3 grid(static_cast<unsigned>(pieces.count()), static_cast<unsigned>(rows));
  const auto kernel = edge == PoolEdge::replicate ? pool<PoolEdge::replicate>
                      : edge == PoolEdge::zero    ? pool<PoolEdge::zero>
                                                  : pool<PoolEdge::lowest>;
  kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(pieces, sources_of(shard, scores, rows), shard.P, windows, pooled,
                                                shard.stride);
  RESTKV_KERNEL_CHECK();
}

void equal_windows(Context& ctx, int64_t rows, PoolWindow window, PoolWindow* windows) {
  if (rows == 0) return;
  fill_windows<<<static_cast<unsigned>((rows + 255) / 256), 256, 0, stream_of(ctx)>>>(window, rows, windows);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
