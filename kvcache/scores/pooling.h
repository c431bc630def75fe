// E4, last part: smoothing of the scores along the positions.
#pragma once

#include "dist/base/context.h"
#include "kvcache/local_shard.h"
#include "kvcache/statistics/exchange.h"

namespace restkv {

enum class PoolEdge {
  replicate,  ///< positions outside [0, P) have the score of the nearest end
  zero,       ///< they count as 0 (average pooling with padding)
  lowest,     ///< they count as -inf (max pooling)
};

/// The window of one head: positions i + first .. i + last, both included (last >= first).
/// In a Tensor: i64 [rows, 2].
struct PoolWindow {
  int64_t first = 0;
  int64_t last = 0;
  int64_t width() const { return last - first + 1; }
};

/// pooled[h, i] for the local past positions = mean (replicate, zero: always divided by the full width) or maximum
/// (lowest) of scores over the head's window. Sums run from the first to the last position of the window.
///   scores [rows, P] global positions, windows i64 [rows, 2] (a PoolWindow per row, on the device),
///   pooled [rows, shard.stride] local positions (f32)
void pool_scores(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, PoolEdge edge,
                 const Tensor& windows, float* pooled);

/// The same of scores that were exchanged (statistics/exchange.h). Precondition: no window goes beyond their reach.
void pool_scores(Context& ctx, const LocalShard& shard, const PastScores& scores, int64_t rows, PoolEdge edge,
                 const Tensor& windows, float* pooled);

/// The windows of `rows` rows that have the same.
Tensor equal_windows(Context& ctx, int64_t rows, PoolWindow window);

namespace cpu {  // pooling_cpu.cc
void pool_scores(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, PoolEdge edge,
                 const PoolWindow* windows, float* pooled);
}

namespace gpu {  // pooling_gpu.cu
/// Precondition: no window is empty.
void pool_scores(Context& ctx, const LocalShard& shard, const PastScores& scores, int64_t rows, PoolEdge edge,
                 const PoolWindow* windows, float* pooled);
void equal_windows(Context& ctx, int64_t rows, PoolWindow window, PoolWindow* windows);
}  // namespace gpu

}  // namespace restkv
