#include "kvcache/scores/group_mean.h"

#include "kvcache/device_dispatch.h"

namespace restkv {

void group_mean(Context& ctx, const std::vector<std::vector<const float*>>& members, int64_t count, int64_t stride,
                float* out) {
  need_cpu(ctx, "group_mean");
  for (const auto& group : members) RESTKV_CHECK(!group.empty(), "a KV head without query heads");
  cpu::group_mean(ctx, members, count, stride, out);
}

}  // namespace restkv
