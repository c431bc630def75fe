#include "kvcache/statistics/running_column_sums.h"

#include "dist/base/error.h"
#include "kvcache/cpu/panel.h"

namespace restkv {

void add_column_sums(Context& ctx, const HeadLayout& heads, const Segment& run, const PromptQueries& prompt,
                     int64_t* sums) {
  constexpr int64_t kQueriesOfStep = 64;  // of the GPU's kernel; the CPU's tiles divide it
  const int64_t L = prompt.k.rows, seen = run.global + run.count, Hq = heads.Hq_lc();
  RESTKV_CHECK(run.local == 0 && run.global % kQueriesOfStep == 0 && seen <= L,
               "queries of the positions {} to {} from row {} on, {} keys", run.global, seen, run.local, L);
  if (run.count == 0 || Hq == 0) return;
  // A shard that ends where the run ends: no later key gets anything.
  LocalShard shard;
  shard.L = shard.P = seen;
  shard.L_lc = run.count;
  shard.stride = round_up_to_panel(run.count);
  shard.all = {run};
  PromptQueries part = prompt;
  part.k = prompt.k.block(0, seen, 0, prompt.k.cols);
  part.sums = nullptr;
  const Tensor terms = ctx.empty(DType::i64, {Hq, seen});
  column_sums(ctx, heads, shard, part, terms.data<int64_t>());
  if (ctx.device() == Device::gpu) return gpu::add_i64(ctx, terms.data<int64_t>(), Hq, seen, sums, L);
  ctx.parallel_for(Hq, [&](int64_t h) {
    const int64_t* row = terms.data<int64_t>() + h * seen;
    for (int64_t i = 0; i < seen; ++i) sums[h * L + i] += row[i];
  });
}

}  // namespace restkv
