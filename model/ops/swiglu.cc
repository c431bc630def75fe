#include "model/ops/swiglu.h"

#include "model/ops/dispatch.h"

namespace restkv {

void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y) {
  RESTKV_CHECK(gate_up.rows == y.rows && gate_up.cols == 2 * y.cols, "gate_up [{}, {}], y [{}, {}]", gate_up.rows,
               gate_up.cols, y.rows, y.cols);
  if (on_gpu(ctx)) return gpu::swiglu(ctx, gate_up, y);
  require_cpu_f32(ctx, "swiglu", {gate_up.dtype, y.dtype});
  cpu::swiglu(ctx, gate_up, y);
}

}  // namespace restkv
