#include "model/ops/swiglu.h"

#include "model/ops/dispatch.h"

namespace restkv {
namespace {

void check(const MatrixView& gate_up, const MatrixView& y) {
  RESTKV_CHECK(gate_up.rows == y.rows && gate_up.cols == 2 * y.cols, "gate_up [{}, {}], y [{}, {}]", gate_up.rows,
               gate_up.cols, y.rows, y.cols);
}

}  // namespace

void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y) {
  check(gate_up, y);
  if (on_gpu(ctx)) return gpu::swiglu(ctx, gate_up, y);
  require_cpu_f32(ctx, "swiglu", {gate_up.dtype, y.dtype});
  cpu::swiglu(ctx, gate_up, y);
}

void geglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y) {
  check(gate_up, y);
  if (on_gpu(ctx)) return gpu::geglu(ctx, gate_up, y);
  require_cpu_f32(ctx, "geglu", {gate_up.dtype, y.dtype});
  cpu::geglu(ctx, gate_up, y);
}

void gated_activation(Context& ctx, Activation activation, const MatrixView& gate_up, const MatrixView& y) {
  if (activation == Activation::silu)
    swiglu(ctx, gate_up, y);
  else
    geglu(ctx, gate_up, y);
}

}  // namespace restkv
