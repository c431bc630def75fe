// The gated activation of the MLP (Shazeer, 2020): y = silu(gate) * up, silu(x) = x / (1 + exp(-x)).
#pragma once

#include "dist/base/context.h"

namespace restkv {

/// gate_up [n, 2 I]: gate in columns [0, I), up in [I, 2 I). y [n, I] f32.
void swiglu(Context& ctx, const float* gate_up, float* y, int64_t n, int64_t I);

namespace cpu {
void swiglu(Context& ctx, const float* gate_up, float* y, int64_t n, int64_t I);
}

}  // namespace restkv
