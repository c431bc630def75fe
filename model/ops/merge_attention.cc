#include "model/ops/merge_attention.h"

#include "model/ops/dispatch.h"

namespace restkv {

void merge_attention(Context& ctx, const AttentionPart& part, const AttentionTotal& total, int64_t d,
                     const MatrixView& result) {
  const int64_t n = part.out.rows, cols = part.out.cols;
  if (n == 0 || cols == 0) return;
  RESTKV_CHECK(d > 0 && cols % d == 0 && total.out.rows == n && total.out.cols == cols,
               "merge [{}, {}] into [{}, {}], d {}", n, cols, total.out.rows, total.out.cols, d);
  RESTKV_CHECK(total.out.dtype == DType::f32, "a total of attention in {}; f32 needed", name_of(total.out.dtype));
  RESTKV_CHECK(part.lse != nullptr && total.lse != nullptr && part.lse_ld >= n && total.lse_ld >= n,
               "log-sum-exps of {} rows in rows of {} and {}", n, part.lse_ld, total.lse_ld);
  RESTKV_CHECK(result.rows == 0 || (result.rows == n && result.cols == cols && result.dtype == part.out.dtype),
               "merged rows [{}, {}] {} into [{}, {}] {}", n, cols, name_of(part.out.dtype), result.rows, result.cols,
               name_of(result.dtype));
  if (on_gpu(ctx)) return gpu::merge_attention(ctx, part, total, d, result);
  require_cpu_f32(ctx, "merge_attention", {part.out.dtype});
  cpu::merge_attention(ctx, part, total, d, result);
}

}  // namespace restkv
