#include "model/weights/random_fill.h"

#include <algorithm>

#include "dist/base/error.h"

namespace restkv {

void random_fill(Context& ctx, const RandomElements& elements, const Tensor& out) {
  int64_t rows = elements.rows.size(), cols = elements.cols.size();
  RESTKV_CHECK(rows >= 0 && cols >= 0 && out.numel() == rows * cols && out.device() == ctx.device() &&
                   (out.dtype() == DType::f32 || out.dtype() == DType::bf16),
               "random weights {} x {} into {}", rows, cols, out.describe());
  if (out.empty()) return;
  if (ctx.device() == Device::gpu) {
    gpu::random_fill(ctx, elements, out.dtype(), out.raw());
    return;
  }
  constexpr int64_t kBlock = 64;
  ctx.parallel_for((rows + kBlock - 1) / kBlock, [&](int64_t b) {
    RandomElements part = elements;
    part.rows.begin += b * kBlock;
    part.rows.end = std::min(part.rows.begin + kBlock, elements.rows.end);
    random_rows(part, out.dtype(), static_cast<char*>(out.raw()) + b * kBlock * cols * size_of(out.dtype()));
  });
}

}  // namespace restkv
