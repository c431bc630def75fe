#include "model/ops/attention_decode.h"

#include "model/ops/dispatch.h"

namespace restkv {

void attention_decode(Context& ctx, const DecodeAttention& args, const KvView& kv) {
  require_cpu_f32(ctx, "attention_decode", {kv.dtype});
  cpu::attention_decode(ctx, args, kv);
}

void merge_partial_attention(Context& ctx, const float* out, const float* lse, int64_t parts, int64_t Hq_lc, int64_t d,
                             float* merged) {
  require_cpu_f32(ctx, "merge_partial_attention", {});
  cpu::merge_partial_attention(out, lse, parts, Hq_lc, d, merged);
}

}  // namespace restkv
