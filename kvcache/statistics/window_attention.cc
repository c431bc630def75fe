#include "kvcache/statistics/window_attention.h"

#include "kvcache/device_dispatch.h"

namespace restkv {

void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a) {
  need_cpu(ctx, "window_attention");
  cpu::window_attention(ctx, heads, shard, logits, softmax, reduction, alpha, a);
}

}  // namespace restkv
