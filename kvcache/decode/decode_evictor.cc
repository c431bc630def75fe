#include "kvcache/decode/decode_evictor.h"

#include <algorithm>

#include "dist/base/error.h"
#include "kvcache/allocation.h"
#include "kvcache/device_dispatch.h"
#include "kvcache/policies/policy.h"
#include "kvcache/slots.h"

namespace restkv {
namespace {

void check_schedule(const CacheConfig& config) {
  const DecodeSchedule& s = config.decode;
  if (config.allocation != Allocation::uniform && (s.trigger > 0 || s.target > 0))
    fail_input(
        "decode.{}: found {}, allowed with an allocation that is not uniform: 0, the budget of each layer and head",
        s.target > 0 ? "target" : "trigger", s.target > 0 ? s.target : s.trigger);
  if (s.target > 0 && s.target < config.least_budget())
    fail_input("decode.target: found {}, allowed: 0, or at least {}", s.target, config.describe_least_budget());
  const int64_t target = s.target > 0 ? s.target : config.budget.fraction > 0.0 ? 0 : config.budget.tokens;
  const int64_t trigger = s.trigger > 0 ? s.trigger : config.budget.fraction > 0.0 ? 0 : config.budget.tokens;
  if (target > 0 && trigger > 0 && trigger < target)
    fail_input("decode.trigger: found {} tokens, allowed: 0, or at least the target of {}", trigger, target);
}

// The queries and log-sum-exps of all query heads of the layer, from the ranks that decode them.
void gather_queries(const DecodeLayout& layout, const DecodedToken& token, int64_t d, std::vector<float>& q,
                    std::vector<float>& lse) {
  const int64_t Hq = layout.mine.Hq, mine = layout.mine.Hq_lc();
  std::vector<float> packed(static_cast<size_t>(mine * (d + 1))), all(static_cast<size_t>(Hq * (d + 1)));
  for (int64_t h = 0; h < mine; ++h) {
    std::copy_n(token.q + h * d, d, &packed[static_cast<size_t>(h * (d + 1))]);
    packed[static_cast<size_t>(h * (d + 1) + d)] = token.lse[h];
  }
  std::vector<int64_t> counts, displacements;
  for (const HeadRange& range : layout.ranges) {
    counts.push_back(range.q.size() * (d + 1));
    displacements.push_back(range.q.begin * (d + 1));
  }
  layout.heads->all_gather_v(packed.data(), all.data(), counts, displacements, DType::f32);
  q.resize(static_cast<size_t>(Hq * d));
  lse.resize(static_cast<size_t>(Hq));
  for (int64_t h = 0; h < Hq; ++h) {
    std::copy_n(&all[static_cast<size_t>(h * (d + 1))], d, &q[static_cast<size_t>(h * d)]);
    lse[static_cast<size_t>(h)] = all[static_cast<size_t>(h * (d + 1) + d)];
  }
}

}  // namespace

DecodeEvictor::DecodeEvictor(Context& ctx, DecodeLayout layout, const CacheConfig& config, int64_t layers)
    : ctx_(ctx), layout_(std::move(layout)), config_(config), layers_(layers) {
  config.validate();
  const PolicyEntry& entry = find_policy(config.policy);
  if (entry.make_decode_rule == nullptr)
    fail_input("decode.every: found {}, allowed with policy {}: 0 (it does not evict)", config.decode.every,
               entry.name);
  check_schedule(config);
  rule_ = entry.make_decode_rule();
  const bool per_kv = config.granularity == Granularity::kv_head;
  for (const HeadRange& range : layout_.ranges)
    split_ = split_ || (per_kv && range.q.size() != range.kv.size() * layout_.mine.group());
  resident_part_ = per_kv && layout_.resident.q.size() != layout_.resident.kv.size() * layout_.mine.group();
  // A sum over all heads may take any part of a KV head's queries, as long as the kernels know whose they are.
  const bool one_each = std::all_of(layout_.ranges.begin(), layout_.ranges.end(),
                                    [](const HeadRange& range) { return range.kv.size() <= 1; });
  gathers_ = ctx_.device() == Device::gpu && split_ && rule_->reads_queries() &&
             !(rule_->kind() == RuleKind::attention && one_each);
}

int64_t DecodeEvictor::cache_heads() const {
  return config_.granularity == Granularity::query_head ? layout_.mine.Hq_lc() : layout_.mine.Hkv_lc();
}

Range DecodeEvictor::span() const {
  if (config_.granularity == Granularity::query_head) return layout_.mine.local.q;
  const Range kv = layout_.mine.local.kv;
  return {kv.begin * layout_.mine.group(), kv.end * layout_.mine.group()};
}

// Rows of a head that has no share of its own.
int64_t DecodeEvictor::budget_of(int64_t L, int64_t layer) const {
  const int64_t B = config_.budget.resolve(L);
  if (!deals_to_layers(config_.allocation)) return B;
  CacheConfig fixed = config_;
  fixed.budget = {B, 0.0};
  return layer_budget(fixed, std::max(L, 2 * B), layer, layers_);
}

void DecodeEvictor::begin_layer(DecodeEvictState& state, const PromptEnd& end, int64_t L, const KvCache& cache) const {
  if (ctx_.device() == Device::gpu) return begin_layer_on_gpu(state, end, L, cache);
  const int64_t layer = static_cast<int64_t>(state.layers.size()), d = layout_.mine.d;
  const Range heads = span();
  LayerEvictState& s = state.layers.emplace_back();
  if (rule_->reads_window()) {
    const int64_t W = config_.window, rows = end.q_window.rows;
    Tensor joined;
    MatrixView window = end.q_window;
    int64_t first = heads.begin - layout_.resident.q.begin;
    if (resident_part_) {
      joined = gather_window(end.q_window);
      window = MatrixView(joined);
      first = 0;
      gather_factors(layer, end.r);
    }
    s.window.resize(static_cast<size_t>(W * heads.size() * d));
    for (int64_t w = 0; w < rows && !heads.empty(); ++w)
      std::copy_n(window.row<float>(w) + first * d, heads.size() * d,
                  &s.window[static_cast<size_t>((L - rows + w) % W * heads.size() * d)]);
  }
  if (!rule_->reads_column_sums()) return;
  for (int64_t h = 0; h < cache_heads(); ++h) {
    std::vector<int64_t>& sums = s.sums.emplace_back();
    const Range queries = summed_here(h);
    for (int64_t position : cache.positions(layer, h)) {
      int64_t sum = 0;
      for (int64_t q = queries.begin; q < queries.end; ++q)
        sum += end.column_sums[(q - layout_.resident.q.begin) * L + position];
      sums.push_back(sum);
    }
  }
  if (!resident_part_) return;
  std::vector<int64_t> none, &own = s.sums.empty() ? none : s.sums.front();
  add_group_sums(own.data(), static_cast<int64_t>(own.size()), most_after_prompt(L));
}

// Query heads of a cache head whose column sums this rank reads: all of them, or where it has not got them its own.
Range DecodeEvictor::summed_here(int64_t head) const {
  const int64_t group = config_.granularity == Granularity::query_head ? 1 : layout_.mine.group();
  const Range all{span().begin + head * group, span().begin + (head + 1) * group};
  return resident_part_ ? intersect(all, layout_.mine.local.q) : all;
}

void DecodeEvictor::begin(DecodeEvictState& state, int64_t L, bool evicted,
                          const std::vector<std::vector<int64_t>>& kept) const {
  const int64_t first =
      config_.granularity == Granularity::query_head ? layout_.mine.local.q.begin : layout_.mine.local.kv.begin;
  const int64_t B = config_.budget.resolve(L);
  if (B < config_.least_budget())
    fail_input("cache.budget: found {} tokens, allowed: at least {}", B, config_.describe_least_budget());
  for (int64_t layer = 0; layer < layers_; ++layer) {
    LayerEvictState& s = state.layers.at(static_cast<size_t>(layer));
    for (int64_t h = first; h < first + cache_heads(); ++h) {
      s.total.push_back(kept.at(static_cast<size_t>(layer)).at(static_cast<size_t>(h)));
      s.budget.push_back(evicted && deals_to_heads(config_.allocation) ? s.total.back() : budget_of(L, layer));
    }
    s.layer_total = kept[static_cast<size_t>(layer)].front();
    s.layer_budget = budget_of(L, layer);
    if (config_.policy != "lacache") continue;
    s.ladder.emplace(ladder_shape(config_, layers_, config_.decode.target > 0 ? config_.decode.target : B));
    // The prompt's eviction went by the budget; from the same start this ladder goes by the target.
    Ladder prompt(ladder_shape(config_, layers_, B));
    const LadderCuts cuts = prompt.compact(evicted ? L : 0).of_layer(prompt.shape(), layer);
    if (evicted && config_.decode.target == 0) s.ladder = prompt;
    for (int64_t p = 0; p < L && ctx_.device() == Device::cpu; ++p)  // GPU ranks count in rows, not in positions
      if (!evicted || cuts.place(p) >= 0) s.slots.push_back(p);
  }
  if (ctx_.device() == Device::gpu) upload_limits(state, L);
}

DecodeEvictor::Limits DecodeEvictor::limits_of(int64_t budget) const {
  const DecodeSchedule& schedule = config_.decode;
  const int64_t target = schedule.target > 0 ? schedule.target : budget;
  return {schedule.trigger > 0 ? schedule.trigger : std::max(target, budget), target};
}

void DecodeEvictor::after_token(DecodeEvictState& state, const DecodedToken& token, KvCache& cache) const {
  LayerEvictState& s = state.layers.at(static_cast<size_t>(token.layer));
  const int64_t d = layout_.mine.d;
  const Range heads = span();
  std::vector<float> q, lse, plain, ignored;
  DecodeMoment moment{ctx_,    config_,   layout_,     token.layer, token.position,           heads,
                      token.q, token.lse, token.scale, token.r,     layout_.resident.q.begin, cache,
                      {}};
  if (resident_part_ && token.r != nullptr && rule_->reads_window()) {
    moment.r = factors_.at(static_cast<size_t>(token.layer)).data<float>();
    moment.first_factor = heads.begin;
  }
  if (split_ && rule_->reads_queries()) {
    gather_queries(layout_, token, d, q, lse);
    moment.q = q.data() + heads.begin * d;
    moment.lse = lse.data() + heads.begin;
  }
  moment.rows = token.keys != nullptr ? *token.keys : cache.view(token.layer);
  moment.rotations = token.rotations;
  for (int64_t& total : s.total) ++total;
  ++s.layer_total;
  const float* of_window = token.plain_q != nullptr ? token.plain_q : moment.q;
  if (split_ && rule_->reads_window() && token.plain_q != nullptr) {
    DecodedToken unrotated = token;
    unrotated.q = token.plain_q;
    gather_queries(layout_, unrotated, d, plain, ignored);
    of_window = plain.data() + heads.begin * d;
  }
  if (rule_->reads_window())
    std::copy_n(of_window, heads.size() * d,
                &s.window[static_cast<size_t>(token.position % config_.window * heads.size() * d)]);
  rule_->watch(s, moment);
  if (token.index % config_.decode.every != 0) return;
  // Heads with one budget for all are evicted at once, on ranks without any as well: rules exchange between heads.
  const int64_t layer_target = limits_of(s.layer_budget).target_of(s.layer_total);
  bool due = layer_target > 0;
  moment.target.assign(s.total.size(), layer_target);
  if (deals_to_heads(config_.allocation)) {
    for (size_t h = 0; h < s.total.size(); ++h) moment.target[h] = limits_of(s.budget[h]).target_of(s.total[h]);
    due = std::any_of(moment.target.begin(), moment.target.end(), [](int64_t target) { return target > 0; });
  }
  if (!due) return;
  const RowLists rows = rule_->keep(s, moment);
  for (int64_t h = 0; h < cache_heads(); ++h) {
    if (moment.target[h] == 0) continue;
    cache.retain(token.layer, h, rows[static_cast<size_t>(h)]);
    s.total[h] = moment.target[h];
    if (!s.sums.empty()) {
      std::vector<int64_t> left;
      for (int32_t row : rows[static_cast<size_t>(h)]) left.push_back(s.sums[h][static_cast<size_t>(row)]);
      s.sums[h] = std::move(left);
    }
  }
  if (cache.has_slots()) number_slots(ctx_, *layout_.rows, cache, token.layer, 0);
  s.layer_total = s.ladder ? static_cast<int64_t>(s.slots.size()) : layer_target;
  if (s.ladder) std::fill(s.total.begin(), s.total.end(), s.layer_total);
}

int64_t DecodeEvictor::most_growth(int64_t L, int64_t layer, bool evicted) const {
  const int64_t budget = budget_of(L, layer), every = config_.decode.every;
  // A head's own share is what it has, and what triggers the cut.
  if (deals_to_heads(config_.allocation) && evicted) return every;
  // The ladder may leave fewer rows than the budget.
  const int64_t has = !evicted ? L : config_.policy == "lacache" ? 0 : budget;
  return std::max<int64_t>(limits_of(budget).trigger - has, 0) + every;
}

int64_t DecodeEvictor::spread_growth(int64_t L, int64_t L_lc, int64_t layer, bool evicted) const {
  const int64_t budget = budget_of(L, layer), every = config_.decode.every, ranks = layout_.rows->size();
  const auto share = [&](int64_t tokens) { return (tokens + ranks - 1) / ranks; };  // new tokens go round the ranks
  if (deals_to_heads(config_.allocation) && evicted) return share(every);
  const Limits limits = limits_of(budget);
  // After a cut all rows that are left may be here; the prompt left room for those of its budget.
  const int64_t has = evicted ? budget : L, room = evicted ? std::min(budget, L_lc) : L_lc;
  return std::max(share(std::max<int64_t>(limits.trigger - has, 0) + every),
                  limits.target + share(limits.trigger - limits.target + every) - room);
}

int64_t DecodeEvictor::most_rows(int64_t L) const {
  int64_t most = 0;
  for (int64_t layer = 0; layer < layers_; ++layer) most = std::max(most, budget_of(L, layer));
  most = std::max({most, config_.decode.trigger, config_.decode.target});
  // A head's own budget is not known before the prompt is; what it can be at most is.
  if (deals_to_heads(config_.allocation)) most *= layout_.mine.Hkv;
  return most + config_.decode.every;
}

}  // namespace restkv
