// E2, first part: the attention weight of every local position, reduced over the window rows.
#pragma once

#include "dist/base/context.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"
#include "kvcache/select/radix_select.h"

namespace restkv {

/// How the W rows of a head become one.
enum class RowReduction {
  ema,          ///< e_0 = x_0, e_w = alpha * x_w + (1 - alpha) * e_{w-1}; the value is e_{W-1} (ReST-KV, Eq. 8)
  mean,         ///< sum over w, divided by W
  sum,          ///< sum over w
  inverse_ema,  ///< the moving average from the newest row to the oldest: e_{W-1} = x_{W-1}, e_w = alpha * x_w +
                ///< (1 - alpha) * e_{w+1}; the value is e_0
  last,         ///< x_{W-1}
};

/// The rows that a reduction takes, in its order: first, first + step, ...
struct RowOrder {
  int64_t first, step, count;
};
constexpr RowOrder row_order(RowReduction reduction, int64_t W) {
  if (reduction == RowReduction::inverse_ema) return {W - 1, -1, W};
  if (reduction == RowReduction::last) return {W - 1, 1, 1};
  return {0, 1, W};
}
/// Whether these are all rows from the oldest to the newest.
constexpr bool takes_all_ascending(RowReduction reduction) {
  return reduction != RowReduction::inverse_ema && reduction != RowReduction::last;
}

/// Window rows up to which attention and lists of candidates come from one pass.
inline constexpr int64_t kMostListedRows = 1024;

/// a [Hq_lc, stride]: reduction over w of A[w, i] = softmax row of logits [Hq_lc * W, stride] and softmax [., 2]
/// (window_logits.h). alpha is used by ema and inverse_ema. lists, on a GPU alone: of a select_top_beside() on the rows
/// of logits, where the reduction takes_all_ascending().
void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a,
                      const CandidateLists* lists = nullptr);

namespace cpu {  // window_attention_cpu.cc
void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a);
}
namespace gpu {
// window_attention_gpu.cu
void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a);
// attention_lists_gpu.cu: with the same bits
void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a,
                      const CandidateLists& lists);
}  // namespace gpu

}  // namespace restkv
