#include "kvcache/head_budgets.h"

#include <algorithm>
#include <cmath>

#include "kvcache/select/radix_select.h"
#include "kvcache/statistics/exchange.h"

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

// The cut at the k-th largest of all rows' scores together, on the context's device: the rows behind one another are
// one row of a selection.
SelectResult layer_cut(Context& ctx, Communicator& sequence, const LocalShard& shard,
                       const SequencePartition& partition, const Tensor& rows, int64_t k) {
  const int64_t heads = rows.size(0), past = shard.past_count();
  Tensor joined = ctx.empty(DType::f32, {heads, past});
  for (const Segment& s : shard.past)
    copy_rows(ctx, rows.data<float>() + s.local, shard.stride, joined.data<float>() + s.local, past, heads, s.count);
  // Which ties it takes does not matter here, so any numbering of the elements does.
  int64_t before = 0, most = 0;
  for (int rank = 0; rank < sequence.size(); ++rank) {
    const int64_t there = past_count_of(partition, rank, shard.P);
    most = std::max(most, there);
    if (rank < sequence.rank()) before += there;
  }
  std::vector<Segment> segments;
  if (past > 0) segments.push_back({0, heads * before, heads * past});
  return select_top(ctx, sequence, {joined.data<float>(), 1, heads * past, &segments, heads * shard.P, heads * most},
                    k);
}

void count_at_cut(Context& ctx, const Tensor& rows, const LocalShard& shard, const SelectCut* cut, CutCounts* counts) {
  if (ctx.device() == Device::gpu)
    return gpu::count_at_cut(ctx, rows.data<float>(), rows.size(0), shard.stride, shard.past, cut, counts);
  ctx.parallel_for(rows.size(0), [&](int64_t h) {
    counts[h] = {};
    for (const Segment& s : shard.past)
      for (int64_t i = s.local; i < s.local + s.count; ++i) {
        const uint32_t key = order_key(rows.data<float>()[h * shard.stride + i]);
        counts[h].above += key > cut->key ? 1 : 0;
        counts[h].equal += key == cut->key ? 1 : 0;
      }
  });
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
  const int64_t units = floor_units(floor);
  std::vector<int64_t> shares, budgets;
  for (int64_t h = 0; h < heads; ++h) shares.push_back(budget_share(counts.data(), heads, h, mean, units));
  for (int64_t h = 0; h < heads; ++h) budgets.push_back(rounded_share(shares.data(), heads, h));
  return budgets;
}

int64_t floor_units(double floor) { return std::llround(floor * static_cast<double>(kFloorUnits)); }

int64_t most_head_budget(int64_t heads, int64_t mean, double floor, int64_t P) {
  const int64_t units = floor_units(floor), share = std::min(P, heads * mean) * (kFloorUnits - units) + mean * units;
  return (share + kFloorUnits - 1) / kFloorUnits;
}

HeadBudgets head_budgets(Context& ctx, Communicator& sequence, Communicator& tensor, const HeadLayout& heads,
                         bool per_query, const LocalShard& shard, const SequencePartition& partition,
                         const Tensor& scores, int64_t mean, double floor) {
  const Tensor rows = all_rows(ctx, tensor, heads, per_query, shard.stride, scores);
  const int64_t count = rows.size(0);
  const SelectResult cut = layer_cut(ctx, sequence, shard, partition, rows, count * mean);
  Tensor counted = ctx.empty(DType::i32, {count, 2});
  auto* counts = static_cast<CutCounts*>(counted.raw());
  count_at_cut(ctx, rows, shard, cut.cut(), counts);
  if (sequence.size() > 1) sequence.all_reduce(counted.raw(), 2 * count, DType::i32, ReduceOp::sum);
  const Range mine = per_query ? heads.local.q : heads.local.kv;
  HeadBudgets budgets{ctx.empty(DType::u32, {mine.size()}), 0};
  auto* tokens = budgets.tokens.data<uint32_t>();
  if (ctx.device() == Device::gpu) {
    budgets.most = most_head_budget(count, mean, floor, shard.P);
    gpu::deal_budget(ctx, counts, count, mean, floor_units(floor), mine, tokens);
    return budgets;
  }
  const std::vector<int64_t> all = deal_budget({counts, counts + count}, mean, floor);
  for (int64_t h = mine.begin; h < mine.end; ++h) {
    tokens[h - mine.begin] = static_cast<uint32_t>(all[h]);
    budgets.most = std::max(budgets.most, all[h]);
  }
  return budgets;
}

}  // namespace restkv
