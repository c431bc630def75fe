#include "kvcache/evict.h"

#include <algorithm>

#include "dist/base/error.h"
#include "kvcache/allocation.h"
#include "kvcache/head_budgets.h"
#include "kvcache/policies/policy.h"
#include "kvcache/scores/group_mean.h"
#include "kvcache/select/radix_select.h"

namespace restkv {

struct Evictor::State {
  Context& ctx;
  Communicator& sequence;
  Communicator& tensor;
  HeadLayout heads;
  CacheConfig config;
  const PolicyEntry& entry;
  std::unique_ptr<Policy> policy;

  bool groups_are_split() const { return heads.groups_are_split(tensor.size()); }
  bool mean_over_layer() const { return entry.unit == ScoreUnit::layer_mean; }
  bool uses_output_factors() const { return entry.needs_output_factors && policy->uses_output_factors(config); }
  int64_t checked_budget(const LayerKv& layer) const;
  void check_input(const LayerKv& layer) const;
  Tensor gather_heads(const LocalShard& shard, const Tensor& scores);
  Tensor kv_head_scores(const LocalShard& shard, const Tensor& scores);
  Tensor layer_scores(const LocalShard& shard, const Tensor& scores);
  KeptRows keep(const SequencePartition& partition, const LocalShard& shard, const Tensor& scores, int64_t past_budget,
                EvictTrace* trace);
  std::vector<int64_t> row_of_head() const;
  Tensor spread(const Tensor& rows, const std::vector<int64_t>& source) const;
  std::vector<int64_t> cache_heads() const;
};

Evictor::Evictor(Context& ctx, Communicator& sequence, Communicator& tensor, const HeadLayout& heads,
                 const CacheConfig& config) {
  config.validate();
  const PolicyEntry& entry = find_policy(config.policy);
  state_.reset(
      new State{ctx, sequence, tensor, heads, config, entry, entry.make != nullptr ? entry.make(config) : nullptr});
  const HeadRange expected = split_heads(heads.Hq, heads.Hkv, tensor.size(), tensor.rank());
  const bool gathers = state_->groups_are_split() ||
                       ((state_->mean_over_layer() || deals_to_heads(config.allocation)) && tensor.size() > 1);
  RESTKV_CHECK(!gathers || (heads.local.q == expected.q && heads.local.kv == expected.kv),
               "tensor rank {} holds query heads [{}, {}), split_heads gives [{}, {})", tensor.rank(),
               heads.local.q.begin, heads.local.q.end, expected.q.begin, expected.q.end);
}

Evictor::~Evictor() = default;

bool Evictor::evicts(int64_t L) const { return state_->entry.evicts && L > state_->config.budget.resolve(L); }

bool Evictor::needs_window_queries() const { return state_->entry.needs_window_queries; }

bool Evictor::needs_prompt_queries() const {
  return state_->policy != nullptr && state_->policy->reads_prompt_queries();
}

bool Evictor::needs_output_factors() const { return state_->uses_output_factors(); }

// Tokens that this layer keeps per head.
int64_t Evictor::State::checked_budget(const LayerKv& layer) const {
  const int64_t L = layer.partition->length();
  const int64_t B = config.budget.resolve(L);
  if (B < config.least_budget()) {
    if (config.budget.fraction > 0.0)
      fail_input("cache.budget: the fraction {} of a prompt of {} tokens is {} tokens, allowed: at least {}",
                 config.budget.fraction, L, B, config.describe_least_budget());
    fail_input("cache.budget: found {} tokens, allowed: at least {}", B, config.describe_least_budget());
  }
  RESTKV_CHECK(B <= L, "eviction of {} tokens with a budget of {}", L, B);
  return layer_budget(config, L, layer.layer, layer.layers);
}

void Evictor::State::check_input(const LayerKv& layer) const {
  RESTKV_CHECK(entry.evicts, "policy {} does not evict", entry.name);
  RESTKV_CHECK(layer.partition != nullptr && layer.partition->ranks() == sequence.size(),
               "the partition is not that of a sequence group of {} ranks", sequence.size());
  const bool has_heads = heads.Hq_lc() > 0;
  RESTKV_CHECK(!has_heads || !entry.needs_window_queries || layer.q_window.data != nullptr,
               "policy {} needs the window queries", entry.name);
  RESTKV_CHECK(!has_heads || !policy->reads_prompt_queries() || layer.prompt.lse != nullptr ||
                   layer.prompt.sums != nullptr || layer.k.rows == 0,
               "policy {} needs the prompt's queries", entry.name);
  RESTKV_CHECK(!has_heads || !uses_output_factors() || layer.r != nullptr, "policy {} needs the output factors",
               entry.name);
}

// Scores [Hq, stride] of all query heads of the model, in its order, from [Hq_lc, stride] on every tensor rank.
Tensor Evictor::State::gather_heads(const LocalShard& shard, const Tensor& scores) {
  Tensor all = ctx.empty(DType::f32, {heads.Hq, shard.stride});
  std::vector<int64_t> counts, displacements;
  for (int t = 0; t < tensor.size(); ++t) {
    const Range q = split_heads(heads.Hq, heads.Hkv, tensor.size(), t).q;
    counts.push_back(q.size() * shard.stride);
    displacements.push_back(q.begin * shard.stride);
  }
  tensor.all_gather_v(scores.raw(), all.raw(), counts, displacements, DType::f32);
  return all;
}

// The mean [1, stride] over all query heads of the layer, added in model order.
Tensor Evictor::State::layer_scores(const LocalShard& shard, const Tensor& scores) {
  const Tensor all = tensor.size() > 1 ? gather_heads(shard, scores) : scores;
  std::vector<std::vector<const float*>> members(1);
  for (int64_t h = 0; h < heads.Hq; ++h) members[0].push_back(all.data<float>() + h * shard.stride);
  Tensor mean = ctx.empty(DType::f32, {1, shard.stride});
  group_mean(ctx, members, shard.L_lc, shard.stride, mean.data<float>());
  return mean;
}

// Group means [Hkv_lc, stride] of scores [Hq_lc, stride], heads in model order on every rank.
Tensor Evictor::State::kv_head_scores(const LocalShard& shard, const Tensor& scores) {
  const int64_t stride = shard.stride;
  Tensor all = scores;
  int64_t first = heads.local.q.begin;
  if (groups_are_split()) {
    all = gather_heads(shard, scores);
    first = 0;
  }
  std::vector<std::vector<const float*>> members(static_cast<size_t>(heads.Hkv_lc()));
  for (int64_t g = 0; g < heads.Hkv_lc(); ++g)
    for (int64_t j = 0; j < heads.group(); ++j) {
      const int64_t h = (heads.local.kv.begin + g) * heads.group() + j;
      members[g].push_back(all.data<float>() + (h - first) * stride);
    }
  Tensor mean = ctx.empty(DType::f32, {heads.Hkv_lc(), stride});
  group_mean(ctx, members, shard.L_lc, stride, mean.data<float>());
  return mean;
}

// The kept local rows per row of scores: E5 and E6.
KeptRows Evictor::State::keep(const SequencePartition& partition, const LocalShard& shard, const Tensor& scores,
                              int64_t past_budget, EvictTrace* trace) {
  const int64_t rows = scores.size(0);
  const int64_t budget = past_budget + shard.W;
  int64_t most = budget;  // rows of any head
  SelectRows input{scores.data<float>(), rows, shard.stride, &shard.past, shard.P};
  for (int rank = 0; rank < sequence.size(); ++rank)
    input.most_local = std::max(input.most_local, past_count_of(partition, rank, shard.P));
  SelectResult top;
  const bool ragged = deals_to_heads(config.allocation);
  if (ragged) {
    const bool per_query = entry.unit == ScoreUnit::query_head && config.granularity == Granularity::query_head;
    const HeadBudgets past =
        head_budgets(ctx, sequence, tensor, heads, per_query, shard, partition, scores, past_budget, config.ada_floor);
    top = select_top(ctx, sequence, input, past.tokens, past.most);
    most = shard.W + past.most;
  } else {
    top = select_top(ctx, sequence, input, past_budget);
  }
  // The window's positions follow all past positions in local order.
  TopRows lists = top_set_rows(ctx, input, top.cut(), {shard.past_count(), shard.L_lc}, std::min(most, shard.L_lc));
  if (trace != nullptr) {
    trace->tied_rows += top.tied_rows(ctx);
    trace->scores.clear();
    const std::vector<float> all = ctx.to_host<float>(scores);
    for (int64_t row = 0; row < rows; ++row) {
      const auto from = all.begin() + row * shard.stride;
      trace->scores.insert(trace->scores.end(), from, from + shard.L_lc);
    }
  }
  KeptRows kept;
  kept.rows = std::move(lists.rows);
  kept.counts = std::move(lists.counts);
  if (!ragged) {
    kept.in_group = budget;
  } else if (ctx.device() == Device::gpu) {
    const bool per_query_head = config.granularity == Granularity::query_head;
    kept.most_in_group = most;
    kept.together = std::min((per_query_head ? heads.Hq_lc() : heads.Hkv_lc()) * most,
                             (per_query_head ? heads.Hq : heads.Hkv) * budget);
  }
  if (sequence.size() == 1) kept.known = kept.in_group;
  return kept;
}

// The row of decisions that each cache head takes, where heads share them: all query heads of a group what the policy
// decided for their KV head, or all heads what it decided for the layer. Empty: every head has its own.
std::vector<int64_t> Evictor::State::row_of_head() const {
  const bool per_query_head = config.granularity == Granularity::query_head;
  const bool one = entry.unit == ScoreUnit::layer || mean_over_layer();
  std::vector<int64_t> source;
  if (one) source.assign(static_cast<size_t>(per_query_head ? heads.Hq_lc() : heads.Hkv_lc()), 0);
  if (entry.unit == ScoreUnit::kv_head && per_query_head)
    for (int64_t h = 0; h < heads.Hq_lc(); ++h) source.push_back(heads.kv_of(h));
  return source;
}

// Row source[h] of `rows` for every cache head h.
Tensor Evictor::State::spread(const Tensor& rows, const std::vector<int64_t>& source) const {
  Shape shape = rows.shape();
  shape[0] = static_cast<int64_t>(source.size());
  Tensor result = ctx.empty(rows.dtype(), shape);
  for (int64_t h = 0; h < shape[0]; ++h)
    ctx.copy(result.rows(h, 1).raw(), rows.rows(source[h], 1).raw(), result.rows(h, 1).bytes());
  return result;
}

std::vector<int64_t> Evictor::State::cache_heads() const {
  const Range range = config.granularity == Granularity::kv_head ? heads.local.kv : heads.local.q;
  std::vector<int64_t> head;
  for (int64_t h = range.begin; h < range.end; ++h) head.push_back(h);
  return head;
}

KeptRows Evictor::evict(const LayerKv& layer, EvictTrace* trace, PhaseClock* clock) {
  State& s = *state_;
  s.check_input(layer);
  const int64_t past_budget = s.checked_budget(layer) - s.config.window;
  const int64_t past_tokens = s.policy->past_tokens(s.config, layer, past_budget);
  LocalShard shard;
  PolicyScores scores;
  {
    LayerStatistics statistics(s.ctx, s.sequence, s.heads, s.config, layer, past_budget);
    shard = statistics.shard();
    scores = s.policy->score(statistics);
    if (trace != nullptr) trace->tied_rows = statistics.tied_rows();
  }
  if (clock != nullptr) clock->start("select");
  if (s.entry.unit == ScoreUnit::query_head && s.config.granularity == Granularity::kv_head)
    scores.values = s.kv_head_scores(shard, scores.values);
  if (s.mean_over_layer()) scores.values = s.layer_scores(shard, scores.values);
  KeptRows result = s.keep(*layer.partition, shard, scores.values, past_tokens, trace);
  result.head = s.cache_heads();
  const std::vector<int64_t> source = s.row_of_head();
  if (result.rows.size(0) != result.heads() || !source.empty()) {
    result.rows = s.spread(result.rows, source);
    result.counts = s.spread(result.counts, source);
  }
  result.kernel = std::move(scores.kernel);
  result.shift = std::move(scores.shift);
  return result;
}

}  // namespace restkv
