#include "kvcache/statistics/column_sums.h"

#include "kvcache/device_dispatch.h"

namespace restkv {

void column_sums(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const PromptQueries& prompt,
                 int64_t* sums) {
  const int64_t q_width = heads.Hq_lc() * heads.d, kv_width = heads.Hkv_lc() * heads.d;
  RESTKV_CHECK(prompt.q.rows == shard.L_lc && prompt.q.cols == q_width, "queries of {} rows of {}, {} of {} expected",
               prompt.q.rows, prompt.q.cols, shard.L_lc, q_width);
  RESTKV_CHECK(prompt.k.rows == shard.L && prompt.k.cols == kv_width, "keys of {} rows of {}, {} of {} expected",
               prompt.k.rows, prompt.k.cols, shard.L, kv_width);
  if (ctx.device() == Device::gpu) return gpu::column_sums(ctx, heads, shard, prompt, sums);
  cpu::column_sums(ctx, heads, shard, dense_f32("column_sums", prompt.q), dense_f32("column_sums", prompt.k),
                   prompt.lse, sums);
}

Tensor prompt_column_sums(Context& ctx, Communicator& sequence, const HeadLayout& heads,
                          const SequencePartition& partition, const PromptQueries& prompt) {
  Tensor sums = ctx.empty(DType::i64, {heads.Hq_lc(), partition.length()});
  column_sums(ctx, heads, make_local_shard(partition, sequence.rank(), 0), prompt, sums.data<int64_t>());
  if (sequence.size() > 1) sequence.all_reduce(sums.raw(), sums.numel(), DType::i64, ReduceOp::sum);
  return sums;
}

void column_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const int64_t* sums, float* scores) {
  if (ctx.device() == Device::gpu) return gpu::column_scores(ctx, heads, shard, sums, scores);
  for (int64_t h = 0; h < heads.Hq_lc(); ++h)
    for (const Segment& s : shard.all)
      for (int64_t i = 0; i < s.count; ++i)
        scores[h * shard.stride + s.local + i] = column_sum_value(sums[h * shard.L + s.global + i]);
}

}  // namespace restkv
