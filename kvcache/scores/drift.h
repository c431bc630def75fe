// E4, middle part: the adaptive pooling window of a head, from how far its attention drifts over the window rows
// (ReST-KV, Eqs. 9 and 10).
#pragma once

#include <cstdint>

#include "dist/base/context.h"
#include "kvcache/scores/pooling.h"

namespace restkv {

struct AdaptiveWindows {
  Tensor kernel;   ///< i64 [heads]
  Tensor shift;    ///< i64 [heads]
  Tensor windows;  ///< i64 [heads, 2]: the PoolWindow {-(kernel / 2 - shift), kernel / 2 + shift}
};

/// top_sums i64 [heads * W]: row w of a head has the sum of the positions of T_w, the `top` positions with the largest
/// attention of row w.
/// drift t = (mean position over the first W/2 rows) - (mean over the last W/2 rows), in positions;
/// kernel = max(kernel_size, 2 * floor(|t| / beta) + 1); shift = floor(t / beta) for t > 0, else floor(t / beta) + 1
/// (so t = 0 gives 1, as the published rule has it). In double precision, the same bits on every device.
/// Preconditions: W >= 2, top >= 1, beta > 0.
AdaptiveWindows adaptive_windows(Context& ctx, const Tensor& top_sums, int64_t W, int64_t top, int64_t kernel_size,
                                 double beta);

/// The largest distance between a position and one in its window, whatever the attention of a prompt of L positions; L
/// where it would be more.
int64_t adaptive_reach(int64_t L, int64_t kernel_size, double beta);

namespace gpu {  // drift_gpu.cu
void adaptive_windows(Context& ctx, const Tensor& top_sums, int64_t W, int64_t top, int64_t kernel_size, double beta,
                      const AdaptiveWindows& result);
}

}  // namespace restkv
