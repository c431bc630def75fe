#include "kvcache/statistics/window_attention.h"

#include "dist/base/error.h"

namespace restkv {

void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a,
                      const CandidateLists* lists) {
  if (ctx.device() == Device::gpu) {
    if (lists != nullptr) return gpu::window_attention(ctx, heads, shard, logits, softmax, reduction, alpha, a, *lists);
    return gpu::window_attention(ctx, heads, shard, logits, softmax, reduction, alpha, a);
  }
  RESTKV_CHECK(lists == nullptr, "candidates are listed on a GPU alone");
  cpu::window_attention(ctx, heads, shard, logits, softmax, reduction, alpha, a);
}

}  // namespace restkv
