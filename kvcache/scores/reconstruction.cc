#include "kvcache/scores/reconstruction.h"

#include "dist/base/error.h"
#include "kvcache/device_dispatch.h"

namespace restkv {

void reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* o, const MatrixView& v, const float* r, double tau, float* s) {
  if (ctx.device() == Device::gpu) return gpu::reconstruction_after(ctx, heads, shard, a, o, v, r, tau, s);
  cpu::reconstruction_after(ctx, heads, shard, a, o, dense_f32("reconstruction_after", v), r, tau, s);
}

void reconstruction_before(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                           const float* softmax, const float* o, const MatrixView& v, const float* r,
                           const BeforeOptions& options, float* s) {
  RESTKV_CHECK(takes_all_ascending(options.temporal), "reconstruction_before takes all rows, in ascending order");
  if (ctx.device() == Device::gpu)
    return gpu::reconstruction_before(ctx, heads, shard, logits, softmax, o, v, r, options, s);
  cpu::reconstruction_before(ctx, heads, shard, logits, softmax, o, dense_f32("reconstruction_before", v), r, options,
                             s);
}

}  // namespace restkv
