#include "model/ops/rms_norm.h"

#include "model/ops/dispatch.h"

namespace restkv {

void rms_norm(Context& ctx, const float* x, const float* w, float* y, int64_t n, int64_t H, double eps) {
  require_cpu(ctx, "rms_norm");
  cpu::rms_norm(ctx, x, w, y, n, H, eps);
}

}  // namespace restkv
