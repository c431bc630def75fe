// Scores of the control policy: uniform in [0, 1), drawn by counting on (seed, layer, KV head, global position), so
// that every layout and both devices give the same bits.
#pragma once

#include <cstdint>

#include "dist/base/context.h"
#include "dist/base/mix.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// scores [Hkv_lc, stride] (f32) at the local past positions; other elements are left as they are.
void random_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, uint64_t seed, int64_t layer,
                   float* scores);

/// What is common to a KV head (index in the model) of a layer.
RESTKV_HOST_DEVICE constexpr uint64_t random_scores_key(uint64_t seed, int64_t layer, int64_t kv_head) {
  const uint64_t key = mix64(mix64(seed) ^ static_cast<uint64_t>(layer));
  return mix64(key ^ static_cast<uint64_t>(kv_head));
}

namespace cpu {  // random_scores_cpu.cc
void random_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, uint64_t seed, int64_t layer,
                   float* scores);
}
namespace gpu {  // random_scores_gpu.cu
void random_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, uint64_t seed, int64_t layer,
                   float* scores);
}

}  // namespace restkv
