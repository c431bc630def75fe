// The gated activation of the MLP (Shazeer, 2020): y = silu(gate) * up, silu(x) = x / (1 + exp(-x)).
#pragma once

#include "dist/base/gemm.h"

namespace restkv {

/// gate_up [n, 2 I]: gate in columns [0, I), up in [I, 2 I). y [n, I], the same dtype (f32 on CPU ranks).
void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y);

namespace cpu {
void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y);
}

namespace gpu {
/// The GPU version: bf16, in stream order; rows are multiples of 8 elements.
void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y);
}  // namespace gpu

}  // namespace restkv
