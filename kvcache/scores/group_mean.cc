#include "kvcache/scores/group_mean.h"

#include "dist/base/error.h"

namespace restkv {

void group_mean(Context& ctx, const std::vector<std::vector<const float*>>& members, int64_t count, int64_t stride,
                float* out) {
  for (const auto& group : members) RESTKV_CHECK(!group.empty(), "a KV head without query heads");
  if (ctx.device() == Device::gpu) return gpu::group_mean(ctx, members, count, stride, out);
  cpu::group_mean(ctx, members, count, stride, out);
}

}  // namespace restkv
