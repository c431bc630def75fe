// Causal attention of a run of prompt rows over all keys before them, or over a part of these keys.
#pragma once

#include "dist/base/gemm.h"
#include "kvcache/heads.h"
#include "kvcache/kv_view.h"

namespace restkv {

struct PrefillAttention {
  MatrixView q;    ///< [n, Hq_lc * d] rotated queries of consecutive positions
  MatrixView out;  ///< [n, Hq_lc * d]; may be q
  /// Position of row 0, key 0 being at position 0; a multiple of 128 for bit-equal rows on all layouts. Beyond the last
  /// key: every row sees all keys.
  int64_t first_position = 0;
  double scale = 0.0;          ///< 1 / sqrt(d)
  int64_t sliding_window = 0;  ///< positions that a row sees, its own included; 0: all before it
  double softcap = 0.0;        ///< scaled scores s become softcap tanh(s / softcap); 0: they stay
  /// [Hq_lc, n] f32, row h at lse + h * lse_ld: natural logarithm of the sum of exp(score) over the keys that a row
  /// sees, for merge_attention.h. Null: not wanted.
  float* lse = nullptr;
  int64_t lse_ld = 0;
};

/// Row i attends keys [0, first_position + i] of its KV head, or the last `sliding_window` of them, softmax in f32.
/// `kv` holds the gathered layer in global order, every head first_position + n rows or more; or all heads equally many
/// rows, no more than first_position, that all queries see (no sliding window then). A row's result depends on its
/// position alone, not on which rank computes it: query and key tiles have fixed edges.
void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads);

namespace cpu {
void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads);
}

/// Query rows that are worked on at a time. On GPUs fewer rows than a chunk has: rows that walk along the keys together
/// find them in the L2 cache (128K tokens, 32 heads, d 128, one H200: 8,192 rows a call took 233 ms, all rows in one
/// call 247 ms).
inline constexpr int64_t kAttentionRows = 8192;

namespace gpu {
/// cuDNN, bf16 with f32 softmax; d a multiple of 8 up to 256.
void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads);
}  // namespace gpu

}  // namespace restkv
