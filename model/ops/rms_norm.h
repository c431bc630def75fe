// Root-mean-square normalisation (Zhang and Sennrich, 2019): y = x / sqrt(mean(x^2) + eps) * w, per row.
#pragma once

#include "dist/base/gemm.h"

namespace restkv {

/// x, y [n, H], y may be x: f32 on CPU ranks; on GPUs bf16 into bf16, or f32 into bf16 or f32. w [H] f32. Sums in f32.
void rms_norm(Context& ctx, const MatrixView& x, const Tensor& w, const MatrixView& y, double eps);

namespace cpu {
void rms_norm(Context& ctx, const MatrixView& x, const float* w, const MatrixView& y, double eps);
}

namespace gpu {
/// The GPU version, in stream order; rows are multiples of 8 elements.
void rms_norm(Context& ctx, const MatrixView& x, const float* w, const MatrixView& y, double eps);
}  // namespace gpu

}  // namespace restkv
