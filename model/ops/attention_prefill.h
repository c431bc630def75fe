// Causal attention of a run of prompt rows over all keys before them.
#pragma once

#include "dist/base/gemm.h"
#include "kvcache/heads.h"
#include "kvcache/kv_view.h"

namespace restkv {

struct PrefillAttention {
  MatrixView q;                ///< [n, Hq_lc * d] rotated queries of consecutive positions
  MatrixView out;              ///< [n, Hq_lc * d]; may be q
  int64_t first_position = 0;  ///< global position of row 0; a multiple of 128 for bit-equal rows on all layouts
  double scale = 0.0;          ///< 1 / sqrt(d)
  int64_t sliding_window = 0;  ///< positions that a row sees, its own included; 0: all before it
  double softcap = 0.0;        ///< scaled scores s become softcap tanh(s / softcap); 0: they stay. CPU ranks
};

/// Row i attends keys [0, first_position + i] of its KV head, or the last `sliding_window` of them, softmax in f32.
/// `kv` holds the gathered layer in global order, every head at least first_position + n rows. A row's result depends
/// on its position alone, not on which rank computes it: query and key tiles have fixed edges.
void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads);

namespace cpu {
void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads);
}

namespace gpu {
/// cuDNN, bf16 with f32 softmax; d a multiple of 8 up to 256; no sliding window (RuntimeFailure).
void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads);
}  // namespace gpu

}  // namespace restkv
