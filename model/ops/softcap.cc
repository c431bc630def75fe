#include "model/ops/softcap.h"

#include <cmath>

#include "model/ops/dispatch.h"

namespace restkv {

void softcap(Context& ctx, const Tensor& x, double cap) {
  RESTKV_CHECK(x.dtype() == DType::f32 && cap > 0.0, "softcap of {} at {}", x.describe(), cap);
  const auto at = static_cast<float>(cap);
  auto* values = x.data<float>();
  if (on_gpu(ctx)) return gpu::softcap(ctx, values, x.numel(), at);
  for (int64_t i = 0; i < x.numel(); ++i) values[i] = at * std::tanh(values[i] / at);
}

}  // namespace restkv
