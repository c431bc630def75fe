// Attention over parts of the keys, put together: with (o1, l1) and (o2, l2) the outputs and log-sum-exps of two
// disjoint parts, the attention over both is (e^(l1 - l) o1 + e^(l2 - l) o2) with l = ln(e^l1 + e^l2).
#pragma once

#include "dist/base/gemm.h"

namespace restkv {

struct AttentionPart {
  MatrixView out;              ///< [n, Hq_lc * d]: f32 on CPU ranks, bf16 on GPUs
  const float* lse = nullptr;  ///< [Hq_lc, n], row h at lse + h * lse_ld; -inf: the row saw no key of this part
  int64_t lse_ld = 0;
};

struct AttentionTotal {
  MatrixView out;  ///< [n, Hq_lc * d] f32, of all parts so far
  float* lse = nullptr;
  int64_t lse_ld = 0;
  bool is_empty = false;  ///< nothing was merged yet: what out and lse hold is not read
};

/// total = total and part, for n rows of heads of size d. With a `result` [n, Hq_lc * d] (of the part's dtype; the last
/// part) the merged rows go there instead of total.out. Sums in f32; a row whose parts are all empty becomes 0.
void merge_attention(Context& ctx, const AttentionPart& part, const AttentionTotal& total, int64_t d,
                     const MatrixView& result = {});

namespace cpu {
void merge_attention(Context& ctx, const AttentionPart& part, const AttentionTotal& total, int64_t d,
                     const MatrixView& result);
}

namespace gpu {
/// In stream order; d a multiple of 8.
void merge_attention(Context& ctx, const AttentionPart& part, const AttentionTotal& total, int64_t d,
                     const MatrixView& result);
}  // namespace gpu

}  // namespace restkv
