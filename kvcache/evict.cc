#include "kvcache/evict.h"

#include <algorithm>

#include "dist/base/error.h"
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
  int64_t checked_budget(int64_t L) const;
  void check_input(const LayerKv& layer) const;
  Tensor kv_head_scores(const LocalShard& shard, const Tensor& scores);
  KeptRows keep(const LocalShard& shard, const Tensor& scores, int64_t past_budget, EvictTrace* trace);
  Tensor by_query_head(const Tensor& by_kv_head) const;
  std::vector<int64_t> cache_heads() const;
};

Evictor::Evictor(Context& ctx, Communicator& sequence, Communicator& tensor, const HeadLayout& heads,
                 const CacheConfig& config) {
  config.validate();
  const PolicyEntry& entry = find_policy(config.policy);
  state_.reset(
      new State{ctx, sequence, tensor, heads, config, entry, entry.make != nullptr ? entry.make(config) : nullptr});
  const HeadRange expected = split_heads(heads.Hq, heads.Hkv, tensor.size(), tensor.rank());
  RESTKV_CHECK(!state_->groups_are_split() || (heads.local.q == expected.q && heads.local.kv == expected.kv),
               "tensor rank {} holds query heads [{}, {}), split_heads gives [{}, {})", tensor.rank(),
               heads.local.q.begin, heads.local.q.end, expected.q.begin, expected.q.end);
}

Evictor::~Evictor() = default;

bool Evictor::evicts(int64_t L) const { return state_->entry.evicts && L > state_->config.budget.resolve(L); }

bool Evictor::needs_window_queries() const { return state_->entry.needs_window_queries; }

bool Evictor::needs_output_factors() const { return state_->entry.needs_output_factors && state_->config.use_wo; }

int64_t Evictor::State::checked_budget(int64_t L) const {
  const int64_t B = config.budget.resolve(L), least = config.window + 1;
  if (B < least) {
    if (config.budget.fraction > 0.0)
      fail_input(
          "cache.budget: the fraction {} of a prompt of {} tokens is {} tokens, allowed: at least {} (the "
          "window of {} and one more)",
          config.budget.fraction, L, B, least, config.window);
    fail_input("cache.budget: found {} tokens, allowed: at least {} (the window of {} and one more)", B, least,
               config.window);
  }
  RESTKV_CHECK(B <= L, "eviction of {} tokens with a budget of {}", L, B);
  return B;
}

void Evictor::State::check_input(const LayerKv& layer) const {
  RESTKV_CHECK(entry.evicts, "policy {} does not evict", entry.name);
  RESTKV_CHECK(layer.partition != nullptr && layer.partition->ranks() == sequence.size(),
               "the partition is not that of a sequence group of {} ranks", sequence.size());
  const bool has_heads = heads.Hq_lc() > 0;
  RESTKV_CHECK(!has_heads || !entry.needs_window_queries || layer.q_window.data != nullptr,
               "policy {} needs the window queries", entry.name);
  RESTKV_CHECK(!has_heads || !entry.needs_output_factors || !config.use_wo || layer.r != nullptr,
               "policy {} needs the output factors", entry.name);
}

// Group means [Hkv_lc, stride] of scores [Hq_lc, stride], heads in model order on every rank.
Tensor Evictor::State::kv_head_scores(const LocalShard& shard, const Tensor& scores) {
  const int64_t stride = shard.stride;
  Tensor all = scores;
  int64_t first = heads.local.q.begin;
  if (groups_are_split()) {
    all = ctx.empty(DType::f32, {heads.Hq, stride});
    std::vector<int64_t> counts, displacements;
    for (int t = 0; t < tensor.size(); ++t) {
      const Range q = split_heads(heads.Hq, heads.Hkv, tensor.size(), t).q;
      counts.push_back(q.size() * stride);
      displacements.push_back(q.begin * stride);
    }
    tensor.all_gather_v(scores.raw(), all.raw(), counts, displacements, DType::f32);
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
KeptRows Evictor::State::keep(const LocalShard& shard, const Tensor& scores, int64_t past_budget, EvictTrace* trace) {
  const int64_t rows = scores.size(0), budget = past_budget + shard.W;
  SelectRows input{scores.data<float>(), rows, shard.stride, &shard.past, shard.P};
  SelectResult top = select_top(ctx, sequence, input, past_budget);
  // The window's positions follow all past positions in local order.
  TopRows lists = top_set_rows(ctx, input, top.cut(), {shard.past_count(), shard.L_lc}, std::min(budget, shard.L_lc));
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
  if (sequence.size() == 1) kept.known = budget;
  return kept;
}

// One row per local query head from one per local KV head: all query heads of a group share what the policy decided
// for their KV head.
Tensor Evictor::State::by_query_head(const Tensor& by_kv_head) const {
  Shape shape = by_kv_head.shape();
  shape[0] = heads.Hq_lc();
  Tensor result = ctx.empty(by_kv_head.dtype(), shape);
  for (int64_t h = 0; h < heads.Hq_lc(); ++h)
    ctx.copy(result.rows(h, 1).raw(), by_kv_head.rows(heads.kv_of(h), 1).raw(), result.rows(h, 1).bytes());
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
  const int64_t L = layer.partition->length();
  const int64_t past_budget = s.checked_budget(L) - s.config.window;
  LocalShard shard;
  PolicyScores scores;
  {
    LayerStatistics statistics(s.ctx, s.sequence, s.heads, s.config, layer, past_budget);
    shard = statistics.shard();
    scores = s.policy->score(statistics);
    if (trace != nullptr) trace->tied_rows = statistics.tied_rows();
  }
  if (clock != nullptr) clock->start("select");
  const bool per_query_head = s.config.granularity == Granularity::query_head;
  if (s.entry.unit == Granularity::query_head && !per_query_head)
    scores.values = s.kv_head_scores(shard, scores.values);
  KeptRows result = s.keep(shard, scores.values, past_budget, trace);
  if (s.entry.unit == Granularity::kv_head && per_query_head) {
    result.rows = s.by_query_head(result.rows);
    result.counts = s.by_query_head(result.counts);
  }
  result.head = s.cache_heads();
  result.kernel = std::move(scores.kernel);
  result.shift = std::move(scores.shift);
  return result;
}

}  // namespace restkv
