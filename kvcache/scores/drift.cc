#include "kvcache/scores/drift.h"

#include <algorithm>
#include <cmath>

#include "dist/base/error.h"

namespace restkv {
namespace {

void adaptive_window(const int64_t* top_sums, int64_t W, int64_t top, int64_t kernel_size, double beta, int64_t* kernel,
                     int64_t* shift, PoolWindow* window) {
  const int64_t half = W / 2;
  int64_t early = 0, late = 0;
  for (int64_t w = 0; w < half; ++w) early += top_sums[w];
  for (int64_t w = W - half; w < W; ++w) late += top_sums[w];
  // One division of exact integers: the same t on every layout.
  const double t = static_cast<double>(early - late) / static_cast<double>(half * top);
  *kernel = std::max(kernel_size, 2 * static_cast<int64_t>(std::floor(std::abs(t) / beta)) + 1);
  *shift = static_cast<int64_t>(std::floor(t / beta)) + (t > 0.0 ? 0 : 1);
  *window = {-(*kernel / 2 - *shift), *kernel / 2 + *shift};
}

}  // namespace

AdaptiveWindows adaptive_windows(Context& ctx, const Tensor& top_sums, int64_t W, int64_t top, int64_t kernel_size,
                                 double beta) {
  RESTKV_CHECK(W >= 2 && top >= 1 && beta > 0.0, "W {}, top {}, beta {}", W, top, beta);
  RESTKV_CHECK(top_sums.numel() % W == 0, "{} sums for windows of {} rows", top_sums.numel(), W);
  const int64_t heads = top_sums.numel() / W;
  AdaptiveWindows result{ctx.empty(DType::i64, {heads}), ctx.empty(DType::i64, {heads}),
                         ctx.empty(DType::i64, {heads, 2})};
  if (ctx.device() == Device::gpu) {
    gpu::adaptive_windows(ctx, top_sums, W, top, kernel_size, beta, result);
    return result;
  }
  for (int64_t h = 0; h < heads; ++h)
    adaptive_window(top_sums.data<int64_t>() + h * W, W, top, kernel_size, beta, result.kernel.data<int64_t>() + h,
                    result.shift.data<int64_t>() + h, static_cast<PoolWindow*>(result.windows.raw()) + h);
  return result;
}

int64_t adaptive_reach(int64_t L, int64_t kernel_size, double beta) {
  // |t| is at most L - 1, and rounding keeps the order. |shift| is at most `steps`, but 1 at t = 0.
  const double steps = std::floor(static_cast<double>(L - 1) / beta);
  if (steps >= static_cast<double>(L)) return L;
  const auto m = static_cast<int64_t>(steps);
  return std::min(L, std::max(kernel_size / 2, m) + std::max<int64_t>(m, 1));
}

}  // namespace restkv
