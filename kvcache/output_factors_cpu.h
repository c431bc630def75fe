// The CPU side of output_factors.h; checked arguments.
#pragma once

#include "kvcache/output_factors.h"

namespace restkv {

/// r [heads, d, d]
void output_factors_cpu(Context& ctx, const MatrixView& wo, int64_t heads, int64_t d, float* r);

}  // namespace restkv
