#include "kvcache/scores/key_norms.h"

#include "kvcache/device_dispatch.h"

namespace restkv {

void key_norms(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& k, float* scores) {
  if (ctx.device() == Device::gpu) return gpu::key_norms(ctx, heads, shard, k, scores);
  cpu::key_norms(ctx, heads, shard, dense_f32("key_norms", k), scores);
}

}  // namespace restkv
