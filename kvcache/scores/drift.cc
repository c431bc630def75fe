#include "kvcache/scores/drift.h"

#include <algorithm>
#include <cmath>

#include "dist/base/error.h"

namespace restkv {

AdaptiveWindow adaptive_window(const int64_t* top_sums, int64_t W, int64_t top, int64_t kernel_size, double beta) {
  RESTKV_CHECK(W >= 2 && top >= 1 && beta > 0.0, "W {}, top {}, beta {}", W, top, beta);
  const int64_t half = W / 2;
  int64_t early = 0, late = 0;
  for (int64_t w = 0; w < half; ++w) early += top_sums[w];
  for (int64_t w = W - half; w < W; ++w) late += top_sums[w];
  // One division of exact integers: the same t on every layout.
  const double t = static_cast<double>(early - late) / static_cast<double>(half * top);
  AdaptiveWindow result;
  result.kernel = std::max(kernel_size, 2 * static_cast<int64_t>(std::floor(std::abs(t) / beta)) + 1);
  result.shift = static_cast<int64_t>(std::floor(t / beta)) + (t > 0.0 ? 0 : 1);
  return result;
}

}  // namespace restkv
