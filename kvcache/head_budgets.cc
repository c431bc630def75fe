#include "kvcache/head_budgets.h"

#include <cmath>

#include "kvcache/device_dispatch.h"
#include "kvcache/select/radix_select.h"

namespace restkv {
namespace {

// Rows [heads of the model, stride] in model order on every rank.
Tensor all_rows(Context& ctx, Communicator& tensor, const HeadLayout& heads, bool per_query, int64_t stride,
                const Tensor& scores) {
  if (tensor.size() == 1) return scores;
  Tensor all = ctx.empty(DType::f32, {per_query ? heads.Hq : heads.Hkv, stride});
  std::vector<int64_t> counts, displacements;
  for (int t = 0; t < tensor.size(); ++t) {
    const Range owned = owned_rows(heads, split_heads(heads.Hq, heads.Hkv, tensor.size(), t), per_query);
    counts.push_back(owned.size() * stride);
    displacements.push_back(owned.begin * stride);
  }
  const int64_t first =
      owned_rows(heads, heads.local, per_query).begin - (per_query ? heads.local.q : heads.local.kv).begin;
  tensor.all_gather_v(scores.data<float>() + first * stride, all.raw(), counts, displacements, DType::f32);
  return all;
}

// The key of the k-th largest of all rows' scores together: the rows behind one another are one row of a selection.
uint32_t layer_cut(Context& ctx, Communicator& sequence, const LocalShard& shard, const SequencePartition& partition,
                   const Tensor& rows, int64_t k) {
  const int64_t heads = rows.size(0), past = shard.past_count();
  Tensor joined = ctx.empty(DType::f32, {heads, past});
  for (int64_t h = 0; h < heads; ++h)
    for (const Segment& s : shard.past)
      ctx.copy(joined.data<float>() + h * past + s.local, rows.data<float>() + h * shard.stride + s.local,
               s.count * static_cast<int64_t>(sizeof(float)));
  // Which ties it takes does not matter here, so any numbering of the elements does.
  int64_t before = 0;
  for (int rank = 0; rank < sequence.rank(); ++rank) before += past_count_of(partition, rank, shard.P);
  std::vector<Segment> segments;
  if (past > 0) segments.push_back({0, heads * before, heads * past});
  SelectRows input{joined.data<float>(), 1, heads * past, &segments, heads * shard.P};
  return select_top(ctx, sequence, input, k).cut()->key;
}

}  // namespace

Range owned_rows(const HeadLayout& heads, const HeadRange& local, bool per_query) {
  if (per_query) return local.q;
  Range kv = local.kv;
  if (!kv.empty() && kv.begin * heads.group() < local.q.begin) ++kv.begin;
  return kv;
}

std::vector<int64_t> deal_budget(const std::vector<CutCounts>& counts, int64_t mean, double floor) {
  const int64_t heads = static_cast<int64_t>(counts.size());
  const int64_t units = std::llround(floor * static_cast<double>(kFloorUnits));
  std::vector<int64_t> shares, budgets;
  for (int64_t h = 0; h < heads; ++h) shares.push_back(budget_share(counts.data(), heads, h, mean, units));
  for (int64_t h = 0; h < heads; ++h) budgets.push_back(rounded_share(shares.data(), heads, h));
  return budgets;
}

std::vector<int64_t> head_budgets(Context& ctx, Communicator& sequence, Communicator& tensor, const HeadLayout& heads,
                                  bool per_query, const LocalShard& shard, const SequencePartition& partition,
                                  const Tensor& scores, int64_t mean, double floor) {
  need_cpu(ctx, "head_budgets");
  const Tensor rows = all_rows(ctx, tensor, heads, per_query, shard.stride, scores);
  const int64_t count = rows.size(0);
  const uint32_t cut = layer_cut(ctx, sequence, shard, partition, rows, count * mean);
  std::vector<CutCounts> counts(static_cast<size_t>(count));
  ctx.parallel_for(count, [&](int64_t h) {
    for (const Segment& s : shard.past)
      for (int64_t i = s.local; i < s.local + s.count; ++i) {
        const uint32_t key = order_key(rows.data<float>()[h * shard.stride + i]);
        counts[h].above += key > cut ? 1 : 0;
        counts[h].equal += key == cut ? 1 : 0;
      }
  });
  if (sequence.size() > 1) sequence.all_reduce(counts.data(), 2 * count, DType::i32, ReduceOp::sum);
  const std::vector<int64_t> all = deal_budget(counts, mean, floor);
  const Range mine = per_query ? heads.local.q : heads.local.kv;
  return {all.begin() + mine.begin, all.begin() + mine.end};
}

}  // namespace restkv
