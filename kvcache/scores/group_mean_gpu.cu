#include "dist/base/error.h"
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/scores/group_mean.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kMost = 256;  // rows per launch: the table of their addresses is a kernel argument

struct Members {
  int first[kMost + 1];  // of each KV head, in rows
  const float* rows[kMost];
};

__global__ void __launch_bounds__(kThreads)
    group_mean_kernel(__grid_constant__ const Members members, int64_t count, int64_t stride, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int g = blockIdx.y, first = members.first[g], last = members.first[g + 1];
  float sum = members.rows[first][i];
  for (int h = first + 1; h < last; ++h) sum += members.rows[h][i];
  out[g * stride + i] = sum / static_cast<float>(last - first);
}

}  // namespace

void group_mean(Context& ctx, const std::vector<std::vector<const float*>>& members, int64_t count, int64_t stride,
                float* out) {
  if (count == 0) return;
  for (size_t done = 0; done < members.size();) {
    Members table;
    table.first[0] = 0;
    unsigned heads = 0;
    for (; done + heads < members.size() && heads < kMost; ++heads) {
      const std::vector<const float*>& rows = members[done + heads];
      const int first = table.first[heads];
      if (first + rows.size() > kMost) break;
      std::copy(rows.begin(), rows.end(), table.rows + first);
      table.first[heads + 1] = first + static_cast<int>(rows.size());
    }
    RESTKV_CHECK(heads > 0, "group_mean on a GPU: {} query heads share a KV head, at most {} can", members[done].size(),
                 kMost);
    group_mean_kernel<<<dim3(blocks_for(count, kThreads), heads), kThreads, 0, stream_of(ctx)>>>(
        table, count, stride, out + static_cast<int64_t>(done) * stride);
    RESTKV_KERNEL_CHECK();
    done += heads;
  }
}

}  // namespace restkv::gpu
