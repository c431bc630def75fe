#include "kvcache/statistics/window_output.h"

#include "kvcache/device_dispatch.h"

namespace restkv {

void past_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const MatrixView& v, float* partials) {
  if (ctx.device() == Device::gpu) return gpu::past_output_partials(ctx, heads, shard, a, v, partials);
  cpu::past_output_partials(ctx, heads, shard, a, dense_f32("past_output_partials", v), partials);
}

void window_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                            const float* softmax, const MatrixView& v, float* partials) {
  if (ctx.device() == Device::gpu) return gpu::window_output_partials(ctx, heads, shard, logits, softmax, v, partials);
  cpu::window_output_partials(ctx, heads, shard, logits, softmax, dense_f32("window_output_partials", v), partials);
}

void fold_outputs(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, int64_t d,
                  float* output) {
  if (ctx.device() == Device::gpu) return gpu::fold_outputs(ctx, gathered, slot, rows, d, output);
  cpu::fold_outputs(ctx, gathered, slot, rows, d, output);
}

}  // namespace restkv
