// E5, first part: one score per KV head and position from the scores of the query heads that share it.
#pragma once

#include <vector>

#include "dist/base/context.h"

namespace restkv {

/// out[g, i] = mean over the rows in members[g], added in that order, of row[i]; i < count.
///   members [KV heads][heads of the group]: pointers to `count` scores; out [KV heads, stride] (f32)
void group_mean(Context& ctx, const std::vector<std::vector<const float*>>& members, int64_t count, int64_t stride,
                float* out);

namespace cpu {  // group_mean_cpu.cc
void group_mean(Context& ctx, const std::vector<std::vector<const float*>>& members, int64_t count, int64_t stride,
                float* out);
}
namespace gpu {  // group_mean_gpu.cu
void group_mean(Context& ctx, const std::vector<std::vector<const float*>>& members, int64_t count, int64_t stride,
                float* out);
}

}  // namespace restkv
