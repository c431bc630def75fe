#include "kvcache/statistics/bound_logits.h"

#include "dist/base/error.h"

namespace restkv {

void bound_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const AttentionForm& form,
                  float* logits, float* partials) {
  RESTKV_CHECK(form.scale >= 0.0 && form.softcap >= 0.0 && form.sliding_window >= 0,
               "bound_logits: scale {}, soft-cap {}, window {}", form.scale, form.softcap, form.sliding_window);
  if (ctx.device() == Device::gpu) return gpu::bound_logits(ctx, heads, shard, form, logits, partials);
  cpu::bound_logits(ctx, heads, shard, form, logits, partials);
}

}  // namespace restkv
