#include <cfloat>

#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/scores/key_norms.h"

namespace restkv::gpu {
namespace {

constexpr int kWarps = 8;

// One warp per key; the warps of a block have neighbouring positions of one head.
template <class T>
__global__ void __launch_bounds__(kWarps * 32)
    key_norms_kernel(Segment segment, int d, int64_t k_ld, int64_t stride, const T* k, float* scores) {
  const int lane = static_cast<int>(threadIdx.x % 32), g = static_cast<int>(blockIdx.y);
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (at >= segment.count) return;
  const T* key = k + (segment.local + at) * k_ld + static_cast<int64_t>(g) * d;
  float sum = 0.0f;
  for (int j = lane; j < d; j += 32) {
    const float x = to_f32(key[j]);
    sum = fmaf(x, x, sum);
  }
  sum = warp_sum(sum);
  if (lane == 0) scores[g * stride + segment.local + at] = fmaxf(-sqrtf(sum), -FLT_MAX);
}

}  // namespace

void key_norms(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& k, float* scores) {
  if (heads.Hkv_lc() == 0) return;
  for (const Segment& s : shard.past) {
    const dim3 grid(blocks_for(s.count, kWarps), static_cast<unsigned>(heads.Hkv_lc()));
    with_elements("key_norms", k, [&](const auto* keys) {
      key_norms_kernel<<<grid, kWarps * 32, 0, stream_of(ctx)>>>(s, static_cast<int>(heads.d), k.ld, shard.stride, keys,
                                                                 scores);
      RESTKV_KERNEL_CHECK();
    });
  }
}

}  // namespace restkv::gpu
