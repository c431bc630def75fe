#include "model/ops/swiglu.h"

#include "model/ops/dispatch.h"

namespace restkv {

void swiglu(Context& ctx, const float* gate_up, float* y, int64_t n, int64_t I) {
  require_cpu(ctx, "swiglu");
  cpu::swiglu(ctx, gate_up, y, n, I);
}

}  // namespace restkv
