// E2, second part: attention outputs of the window, as partial sums per block of the grid and folded.
#pragma once

#include "dist/base/gemm.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// Mode `after`: partials[b, h] = sum over the past positions i of block b (i < P) of a[h, i] * v_i.
///   a [Hq_lc, stride], v [L_lc, Hkv_lc * d] (dense; f32, or bf16 on GPUs), partials [local blocks, Hq_lc, d] (f32)
void past_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const MatrixView& v, float* partials);

/// Mode `before`: partials[b, h * W + w] = sum over all positions i of block b of A[w, i] * v_i, with A from logits
/// [Hq_lc * W, stride] and softmax [Hq_lc * W, 2] (window_logits.h). partials [local blocks, Hq_lc * W, d] (f32)
void window_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                            const float* softmax, const MatrixView& v, float* partials);

/// output [rows, d]: the sum of all blocks, in block order, in f64. gathered [slots, rows, d]; block b in slot[b].
void fold_outputs(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, int64_t d,
                  float* output);

namespace cpu {  // window_output_cpu.cc
void past_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* v, float* partials);
void window_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                            const float* softmax, const float* v, float* partials);
void fold_outputs(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, int64_t d,
                  float* output);
}  // namespace cpu

namespace gpu {  // window_output_gpu.cu
void past_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const MatrixView& v, float* partials);
void window_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                            const float* softmax, const MatrixView& v, float* partials);
void fold_outputs(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, int64_t d,
                  float* output);
}  // namespace gpu

}  // namespace restkv
