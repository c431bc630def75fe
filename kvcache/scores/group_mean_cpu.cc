#include "kvcache/scores/group_mean.h"

namespace restkv::cpu {

void group_mean(Context& ctx, const std::vector<std::vector<const float*>>& members, int64_t count, int64_t stride,
                float* out) {
  ctx.parallel_for(static_cast<int64_t>(members.size()), [&](int64_t g) {
    const std::vector<const float*>& rows = members[g];
    const float size = static_cast<float>(rows.size());
    float* mean = out + g * stride;
    for (int64_t i = 0; i < count; ++i) {
      float sum = rows[0][i];
      for (size_t h = 1; h < rows.size(); ++h) sum += rows[h][i];
      mean[i] = sum / size;
    }
  });
}

}  // namespace restkv::cpu
