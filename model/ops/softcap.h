// Soft-capping (Gemma 2): values x become cap tanh(x / cap).
#pragma once

#include "dist/base/context.h"

namespace restkv {

/// x f32 of any shape, in place; cap above 0. On a GPU in stream order.
void softcap(Context& ctx, const Tensor& x, double cap);

namespace gpu {
void softcap(Context& ctx, float* x, int64_t n, float cap);
}

}  // namespace restkv
