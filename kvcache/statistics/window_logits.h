// E1: logits of the window queries on the local keys, and the softmax of every row over all positions.
#pragma once

#include "dist/base/gemm.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// logits[h * W + w][i] = q_w,h . k_i / sqrt(d), or -inf where position i lies after window row w (i > P + w) and in
/// the padding of the stride. Units: natural-log weights.
///   q_window [W, Hq_lc * d], k [L_lc, Hkv_lc * d] (dense; f32, or bf16 on GPUs)
///   logits   [Hq_lc * W, shard.stride] (f32)
///   partials [local blocks, Hq_lc * W, 2] (f32): per block of the grid (max m_b, sum of exp(logit - m_b)); a block
///            without a visible position gives (-inf, 0)
void window_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& q_window,
                   const MatrixView& k, float* logits, float* partials);

/// Folds the partials of all blocks in block order: softmax [rows, 2] = (max m, 1 / sum of exp(logit - m)), with
/// 1 / sum = 0 for a row without a visible position. gathered [slots, rows, 2]; block b lies in slot[b].
void fold_softmax(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, float* softmax);

namespace cpu {  // window_logits_cpu.cc
void window_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* q_window,
                   const float* k, float* logits, float* partials);
void fold_softmax(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, float* softmax);
}  // namespace cpu

namespace gpu {  // window_logits_gpu.cu, window_logits_plain_gpu.cu
void window_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& q_window,
                   const MatrixView& k, float* logits, float* partials);
/// The same without tensor cores, for any head size and for f32: window_logits() calls it where it has to.
void plain_window_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& q_window,
                         const MatrixView& k, float* logits, float* partials);
/// partials of logits [rows, shard.stride] that are there already (bound_logits.h).
void softmax_partials(Context& ctx, const LocalShard& shard, int64_t rows, const float* logits, float* partials);
void fold_softmax(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, float* softmax);
}  // namespace gpu

}  // namespace restkv
