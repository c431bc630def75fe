#include "model/ops/attention_prefill.h"

#include "model/ops/dispatch.h"

namespace restkv {

void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads) {
  if (args.q.rows == 0) return;
  RESTKV_CHECK(kv.heads == heads.Hkv_lc() && kv.d == heads.d, "keys [{} heads, d {}], layout [{} heads, d {}]",
               kv.heads, kv.d, heads.Hkv_lc(), heads.d);
  for (int64_t g = 0; g < kv.heads; ++g)
    RESTKV_CHECK(kv.lengths[g] >= args.first_position + args.q.rows, "KV head {} has {} rows, {} needed", g,
                 kv.lengths[g], args.first_position + args.q.rows);
  RESTKV_CHECK(args.sliding_window >= 0, "a sliding window of {}", args.sliding_window);
  RESTKV_CHECK(!on_gpu(ctx) || args.softcap == 0.0, "attention_prefill on a GPU: a soft-cap of {}", args.softcap);
  if (on_gpu(ctx) && args.sliding_window > 0 && args.first_position + args.q.rows > args.sliding_window)
    fail_runtime("attention on a GPU: a sliding window of {} positions cuts {}; this version has no such mask there",
                 args.sliding_window, args.first_position + args.q.rows);
  if (on_gpu(ctx)) return gpu::attention_prefill(ctx, args, kv, heads);
  require_cpu_f32(ctx, "attention_prefill", {args.q.dtype, args.out.dtype, kv.dtype});
  cpu::attention_prefill(ctx, args, kv, heads);
}

}  // namespace restkv
