#include "kvcache/statistics/window_attention.h"

namespace restkv {

void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a) {
  if (ctx.device() == Device::gpu)
    return gpu::window_attention(ctx, heads, shard, logits, softmax, reduction, alpha, a);
  cpu::window_attention(ctx, heads, shard, logits, softmax, reduction, alpha, a);
}

}  // namespace restkv
