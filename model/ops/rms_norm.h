// Root-mean-square normalisation (Zhang and Sennrich, 2019): y = x / sqrt(mean(x^2) + eps) * w, per row.
#pragma once

#include "dist/base/context.h"

namespace restkv {

/// x, y [n, H] f32 (y may be x); w [H] f32.
void rms_norm(Context& ctx, const float* x, const float* w, float* y, int64_t n, int64_t H, double eps);

namespace cpu {
void rms_norm(Context& ctx, const float* x, const float* w, float* y, int64_t n, int64_t H, double eps);
}

}  // namespace restkv
