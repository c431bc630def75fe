// E3: the reconstruction indicator of ReST-KV (ICLR 2026, Eqs. 5 to 8): how much the layer's output would change if
// one position were left out, s = a / (1 - a) * ||(o - v) W_O||.
#pragma once

#include "dist/base/gemm.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"
#include "kvcache/statistics/window_attention.h"

namespace restkv {

/// 1 - a is clamped below by this, so that a position that takes all attention has a large finite score.
inline constexpr float kSmallestRest = 1e-6f;

/// Mode `after`: s[h, i] = a[h, i] / (1 - a[h, i]) * norm(o[h] - v_i) ^ tau for the local past positions; other
/// elements are undefined. norm(x) = ||R_h x||, or ||x|| with r null.
///   a [Hq_lc, stride], o [Hq_lc, d], r [Hq_lc, d, d] upper triangular, s [Hq_lc, stride] (f32);
///   v [L_lc, Hkv_lc * d] (dense; f32, or bf16 on GPUs)
void reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* o, const MatrixView& v, const float* r, double tau, float* s);

struct BeforeOptions {
  RowReduction temporal = RowReduction::ema;  ///< ema, mean or sum
  double alpha = 0.3;
  bool normalize = false;  ///< divide row w by norm(o[h, w])
};

/// Mode `before`: s[h, i] = reduction over w of A[w, i] / (1 - A[w, i]) * norm(o[h, w] - v_i) [/ norm(o[h, w])].
///   logits [Hq_lc * W, stride], softmax [Hq_lc * W, 2] (window_logits.h), o [Hq_lc * W, d], the rest as above
void reconstruction_before(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                           const float* softmax, const float* o, const MatrixView& v, const float* r,
                           const BeforeOptions& options, float* s);

namespace cpu {  // reconstruction_cpu.cc
void reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* o, const float* v, const float* r, double tau, float* s);
void reconstruction_before(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                           const float* softmax, const float* o, const float* v, const float* r,
                           const BeforeOptions& options, float* s);
}  // namespace cpu

namespace gpu {  // reconstruction_gpu.cu, reconstruction_plain_gpu.cu
void reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* o, const MatrixView& v, const float* r, double tau, float* s);
void reconstruction_before(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                           const float* softmax, const float* o, const MatrixView& v, const float* r,
                           const BeforeOptions& options, float* s);
/// Mode `after` without tensor cores, for any head size, for f32 and without factors: reconstruction_after() calls it
/// where it has to.
void plain_reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                                const float* o, const MatrixView& v, const float* r, double tau, float* s);
}  // namespace gpu

}  // namespace restkv
