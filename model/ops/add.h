// The residual sum.
#pragma once

#include "dist/base/gemm.h"

namespace restkv {

/// x += y, element by element; one shape. f32 on CPU ranks.
void add(Context& ctx, const MatrixView& x, const MatrixView& y);

namespace gpu {
/// The GPU version: each bf16 or f32, in stream order; rows are multiples of 8 elements.
void add(Context& ctx, const MatrixView& x, const MatrixView& y);
}  // namespace gpu

}  // namespace restkv
