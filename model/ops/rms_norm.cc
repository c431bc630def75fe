#include "model/ops/rms_norm.h"

#include "model/ops/dispatch.h"

namespace restkv {

void rms_norm(Context& ctx, const MatrixView& x, const Tensor& w, const MatrixView& y, double eps) {
  RESTKV_CHECK(x.rows == y.rows && x.cols == y.cols && w.numel() == x.cols, "x [{}, {}], w {}, y [{}, {}]", x.rows,
               x.cols, w.describe(), y.rows, y.cols);
  if (on_gpu(ctx)) return gpu::rms_norm(ctx, x, w.data<float>(), y, eps);
  require_cpu_f32(ctx, "rms_norm", {x.dtype, y.dtype});
  cpu::rms_norm(ctx, x, w.data<float>(), y, eps);
}

}  // namespace restkv
