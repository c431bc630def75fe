#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/scores/ladder_scores.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) ladder_scores_kernel(Segment segment, LadderCuts cuts, float* scores) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < segment.count) scores[segment.local + i] = cuts.place(segment.global + i) >= 0 ? 1.0f : 0.0f;
}

}  // namespace

void ladder_scores(Context& ctx, const LocalShard& shard, const LadderCuts& cuts, float* scores) {
  for (const Segment& s : shard.past) {
    ladder_scores_kernel<<<blocks_for(s.count, kThreads), kThreads, 0, stream_of(ctx)>>>(s, cuts, scores);
    RESTKV_KERNEL_CHECK();
  }
}

}  // namespace restkv::gpu
