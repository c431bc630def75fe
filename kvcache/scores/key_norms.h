// Scores by the length of the key alone: the shorter, the more attention it tends to get.
#pragma once

#include "dist/base/gemm.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// scores [Hkv_lc, stride] (f32): -||k_i||_2 at the local past positions, at least the lowest float; other elements are
/// left as they are. A score is computed from its key alone, in one fixed order. k [L_lc, Hkv_lc * d] (dense f32 on the
/// CPU; f32 or bf16 on GPUs).
void key_norms(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& k, float* scores);

namespace cpu {  // key_norms_cpu.cc
void key_norms(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* k, float* scores);
}
namespace gpu {  // key_norms_gpu.cu
void key_norms(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& k, float* scores);
}

}  // namespace restkv
