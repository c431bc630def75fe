#include "kvcache/statistics/window_logits.h"

#include "kvcache/device_dispatch.h"

namespace restkv {

void window_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& q_window,
                   const MatrixView& k, float* logits, float* partials) {
  RESTKV_CHECK(heads.Hq_lc() == 0 || q_window.data != nullptr, "the window queries are missing");
  RESTKV_CHECK(shard.L_lc == 0 || heads.Hkv_lc() == 0 || k.data != nullptr, "the keys are missing");
  if (ctx.device() == Device::gpu) return gpu::window_logits(ctx, heads, shard, q_window, k, logits, partials);
  cpu::window_logits(ctx, heads, shard, dense_f32("window_logits", q_window), dense_f32("window_logits", k), logits,
                     partials);
}

void fold_softmax(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, float* softmax) {
  if (ctx.device() == Device::gpu) return gpu::fold_softmax(ctx, gathered, slot, rows, softmax);
  cpu::fold_softmax(ctx, gathered, slot, rows, softmax);
}

}  // namespace restkv
