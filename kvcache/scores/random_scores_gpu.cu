#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/scores/random_scores.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) random_scores_kernel(Segment segment, uint64_t seed, int64_t layer,
                                                                 int64_t first_head, int64_t stride, float* scores) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= segment.count) return;
  const uint64_t key = random_scores_key(seed, layer, first_head + blockIdx.y);
  scores[blockIdx.y * stride + segment.local + i] =
      static_cast<float>(mix64(key ^ static_cast<uint64_t>(segment.global + i)) >> 40) * 0x1p-24f;
}

}  // namespace

void random_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, uint64_t seed, int64_t layer,
                   float* scores) {
  if (heads.Hkv_lc() == 0) return;
  for (const Segment& s : shard.past) {
    random_scores_kernel<<<dim3(blocks_for(s.count, kThreads), static_cast<unsigned>(heads.Hkv_lc())), kThreads, 0,
                           stream_of(ctx)>>>(s, seed, layer, heads.local.kv.begin, shard.stride, scores);
    RESTKV_KERNEL_CHECK();
  }
}

}  // namespace restkv::gpu
