#include "model/ops/attention_prefill.h"

#include "model/ops/dispatch.h"

namespace restkv {

void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads) {
  if (args.q.rows == 0) return;
  RESTKV_CHECK(kv.heads == heads.Hkv_lc() && kv.d == heads.d, "keys [{} heads, d {}], layout [{} heads, d {}]",
               kv.heads, kv.d, heads.Hkv_lc(), heads.d);
  const bool all_seen = args.first_position >= kv.lengths[0];
  for (int64_t g = 0; g < kv.heads; ++g)
    RESTKV_CHECK(
        all_seen ? kv.lengths[g] == kv.lengths[0] : kv.lengths[g] >= args.first_position + args.q.rows,
        "KV head {} has {} rows; {} needed, or as many on every head ({} on the first) and none behind position {}", g,
        kv.lengths[g], args.first_position + args.q.rows, kv.lengths[0], args.first_position);
  RESTKV_CHECK(kv.lengths[0] > 0, "attention of {} rows over no keys", args.q.rows);
  RESTKV_CHECK(args.sliding_window >= 0 && !(all_seen && args.sliding_window > 0),
               "a sliding window of {}, rows from {} over {} keys", args.sliding_window, args.first_position,
               kv.lengths[0]);
  RESTKV_CHECK(args.lse == nullptr || args.lse_ld >= args.q.rows, "log-sum-exp of {} rows in rows of {}", args.q.rows,
               args.lse_ld);
  if (on_gpu(ctx)) return gpu::attention_prefill(ctx, args, kv, heads);
  require_cpu_f32(ctx, "attention_prefill", {args.q.dtype, args.out.dtype, kv.dtype});
  cpu::attention_prefill(ctx, args, kv, heads);
}

}  // namespace restkv
