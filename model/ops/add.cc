#include "model/ops/add.h"

#include "model/ops/dispatch.h"

namespace restkv {

void add(Context& ctx, const MatrixView& x, const MatrixView& y) {
  RESTKV_CHECK(x.rows == y.rows && x.cols == y.cols, "x [{}, {}] += y [{}, {}]", x.rows, x.cols, y.rows, y.cols);
  if (on_gpu(ctx)) return gpu::add(ctx, x, y);
  require_cpu_f32(ctx, "add", {x.dtype, y.dtype});
  parallel_rows(ctx, x.rows, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < x.cols; ++c) x.row<float>(r)[c] += y.row<float>(r)[c];
  });
}

}  // namespace restkv
