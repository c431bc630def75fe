#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/scores/position_scores.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    position_scores_kernel(Segment segment, int64_t L, int64_t sinks, float* scores) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < segment.count) scores[segment.local + i] = position_score(segment.global + i, L, sinks);
}

}  // namespace

void position_scores(Context& ctx, const LocalShard& shard, int64_t sinks, float* scores) {
  for (const Segment& s : shard.past) {
    position_scores_kernel<<<blocks_for(s.count, kThreads), kThreads, 0, stream_of(ctx)>>>(s, shard.L, sinks, scores);
    RESTKV_KERNEL_CHECK();
  }
}

}  // namespace restkv::gpu
