#include "kvcache/output_factors.h"

#include "dist/base/error.h"
#include "kvcache/output_factors_cpu.h"

namespace restkv {

Tensor output_factors(Context& ctx, const MatrixView& wo, int64_t heads, int64_t d) {
  RESTKV_CHECK(wo.cols == heads * d, "wo has {} columns for {} heads of size {}", wo.cols, heads, d);
  RESTKV_CHECK(wo.dtype == DType::f32 || wo.dtype == DType::bf16, "wo is {}; f32 or bf16 needed", name_of(wo.dtype));
  Tensor r = ctx.empty(DType::f32, {heads, d, d});
  if (ctx.device() == Device::gpu)
    gpu::output_factors(ctx, wo, heads, d, r.data<float>());
  else
    output_factors_cpu(ctx, wo, heads, d, r.data<float>());
  return r;
}

}  // namespace restkv
