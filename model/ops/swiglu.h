// The gated activations of the MLP (Shazeer, 2020): y = activation(gate) * up. SwiGLU: silu(x) = x / (1 + exp(-x)).
// GeGLU: gelu in its tanh form (Hendrycks and Gimpel, 2016), x / 2 (1 + tanh(u)) = x / (1 + exp(-2 u)) with
// u = sqrt(2 / pi) (x + 0.044715 x^3).
#pragma once

#include "dist/base/gemm.h"
#include "model/config.h"

namespace restkv {

/// gate_up [n, 2 I]: gate in columns [0, I), up in [I, 2 I). y [n, I], the same dtype (f32 on CPU ranks).
void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y);
void geglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y);
/// The one of the two that belongs to `activation`.
void gated_activation(Context& ctx, Activation activation, const MatrixView& gate_up, const MatrixView& y);

namespace cpu {
void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y);
void geglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y);
}  // namespace cpu

namespace gpu {
/// The GPU versions: bf16, in stream order; rows are multiples of 8 elements.
void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y);
void geglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y);
}  // namespace gpu

}  // namespace restkv
