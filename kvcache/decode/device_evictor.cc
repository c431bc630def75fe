// Eviction while decoding on GPU ranks. The host knows how many rows every head has, since counts follow from the
// schedule alone: so it knows when something is due, and enqueues the decision and the moves of all layers behind the
// step; the kernels read lengths and limits on the device, and cut the same heads.
#include <algorithm>
#include <limits>
#include <numeric>

#include "dist/base/error.h"
#include "kvcache/decode/decode_evictor.h"
#include "kvcache/evict.h"

namespace restkv {

DecodeEvictState DecodeEvictState::clone(Context& ctx) const {
  DecodeEvictState copy = *this;  // the limits never change
  for (auto [to, from] : {std::pair(&copy.ring, &ring), std::pair(&copy.excess, &excess)}) {
    if (from->empty()) continue;
    *to = ctx.empty(from->dtype(), from->shape());
    ctx.copy(to->raw(), from->raw(), from->bytes());
  }
  return copy;
}

DeviceEvictRecord DecodeEvictState::record() const {
  return {ring.empty() ? nullptr : ring.raw(), limits.empty() ? nullptr : limits.data<int32_t>(),
          excess.empty() ? nullptr : excess.data<int32_t>()};
}

DeviceEvictBatch DecodeEvictor::device_batch(int64_t slots) const {
  DeviceEvictBatch batch;
  batch.slots = slots;
  batch.layers = layers_;
  batch.heads = cache_heads();
  // Where a KV head lies on several ranks and nothing is gathered, what this one has of its query heads (tova).
  batch.group = gathers_ ? layout_.mine.group() : batch.heads > 0 ? layout_.mine.Hq_lc() / batch.heads : 1;
  // A KV head whose first query head lies elsewhere is counted there.
  if (gathers_ && batch.heads > 0 && span().begin < layout_.mine.local.q.begin) batch.first_counted = 1;
  batch.d = layout_.mine.d;
  return batch;
}

void DecodeEvictor::begin_layer_on_gpu(DecodeEvictState& state, const PromptEnd& end, int64_t L,
                                       const KvCache& cache) const {
  const int64_t layer = static_cast<int64_t>(state.layers.size()), d = layout_.mine.d;
  const Range heads = span();
  state.layers.emplace_back();
  Tensor joined;
  MatrixView window = end.q_window;
  int64_t first = heads.begin - layout_.resident.q.begin;
  if (resident_part_ && rule_->reads_window()) {
    joined = gather_window(end.q_window);
    window = MatrixView(joined);
    first = 0;
    gather_factors(layer, end.r);
  }
  if (rule_->reads_window() && !heads.empty()) {
    if (layer == 0) state.ring = ctx_.empty(DType::bf16, {config_.window, layers_, heads.size(), d});
    gpu::begin_ring(ctx_, window, first * d, heads.size() * d, L, config_.window, layer, layers_, state.ring.raw());
  }
  if (!rule_->reads_column_sums()) return;
  const Range queries = heads.empty() ? Range{} : summed_here(0);
  if (!heads.empty())
    gpu::begin_row_sums(ctx_, cache.device_layer(layer), cache_heads(), queries.size(), L,
                        end.column_sums + (queries.begin - layout_.resident.q.begin) * L);
  if (!resident_part_) return;
  const int64_t most = most_after_prompt(L);
  add_group_sums(cache.device_layer(layer).sums, std::min(most, cache.storage_rows(layer)), most);
}

void DecodeEvictor::upload_limits(DecodeEvictState& state, int64_t L) const {
  const int64_t heads = cache_heads();
  if (heads == 0) return;
  const auto narrow = [](int64_t rows) {
    return static_cast<int32_t>(std::min<int64_t>(rows, std::numeric_limits<int32_t>::max()));
  };
  std::vector<int32_t> limits, excess;
  for (const LayerEvictState& s : state.layers)
    for (int64_t h = 0; h < heads; ++h) {
      const Limits of = limits_of(deals_to_heads(config_.allocation) ? s.budget[h] : s.layer_budget);
      limits.push_back(narrow(of.trigger));
      limits.push_back(narrow(of.target));
      excess.push_back(static_cast<int32_t>(s.total[h] - L));
    }
  state.limits = ctx_.to_device(limits.data(), DType::i32, {layers_, heads, 2});
  if (layout_.rows->size() > 1) state.excess = ctx_.to_device(excess.data(), DType::i32, {layers_, heads});
}

void DecodeEvictor::watch_step(const DeviceEvictBatch& batch, int64_t count) const {
  if (rule_->reads_window()) gpu::keep_queries(ctx_, batch, count, config_.window);
  if (rule_->kind() == RuleKind::sums) gpu::add_row_sums(ctx_, batch, count);
}

// The same on all ranks: they hold other rows of the same heads, or other heads of the same layers, of which all or
// none are cut; heads with budgets of their own are cut by rules that exchange nothing between heads.
bool DecodeEvictor::is_due(const LayerEvictState& s) const {
  if (!deals_to_heads(config_.allocation)) return limits_of(s.layer_budget).target_of(s.layer_total) > 0;
  for (size_t h = 0; h < s.total.size(); ++h)
    if (limits_of(s.budget[h]).target_of(s.total[h]) > 0) return true;
  return false;
}

// The host's account of what the kernels did.
void DecodeEvictor::settle(const DecodedMember& member, int64_t ladder_rows) const {
  for (int64_t layer = 0; layer < layers_; ++layer) {
    LayerEvictState& s = member.state->layers[static_cast<size_t>(layer)];
    const int64_t target = limits_of(s.layer_budget).target_of(s.layer_total);
    for (size_t h = 0; h < s.total.size(); ++h) {
      int64_t left = deals_to_heads(config_.allocation) ? limits_of(s.budget[h]).target_of(s.total[h]) : target;
      if (left == 0) continue;
      if (s.ladder) left = ladder_rows;
      if (layout_.rows->size() > 1)
        member.cache->cut_at_most(layer, static_cast<int64_t>(h), left);
      else
        member.cache->cut(layer, static_cast<int64_t>(h), left);
      s.total[h] = left;
    }
    if (target > 0) s.layer_total = s.ladder ? ladder_rows : target;
  }
}

void DecodeEvictor::after_step(const DeviceEvictBatch& batch, std::span<const DecodedMember> members,
                               std::span<const float* const> r) const {
  std::vector<int32_t> slots;
  for (size_t i = 0; i < members.size(); ++i) {
    DecodeEvictState& state = *members[i].state;
    RESTKV_CHECK(static_cast<int64_t>(state.layers.size()) == layers_,
                 "a sequence of {} layers in eviction while decoding, of a model of {}", state.layers.size(), layers_);
    for (LayerEvictState& s : state.layers) {
      ++s.layer_total;
      for (int64_t& total : s.total) ++total;
    }
    const auto due = [this](const LayerEvictState& s) { return is_due(s); };
    if (members[i].index % config_.decode.every == 0 && std::any_of(state.layers.begin(), state.layers.end(), due))
      slots.push_back(static_cast<int32_t>(i));
  }
  if (rule_->kind() == RuleKind::rescoring) {
    for (int32_t slot : slots) {
      rescore(batch, members[static_cast<size_t>(slot)], slot, r);
      settle(members[static_cast<size_t>(slot)], 0);
    }
    return;
  }
  for (size_t first = 0; first < slots.size(); first += DueSlots::kMost) {
    DueSlots due;
    due.count = static_cast<int32_t>(std::min<size_t>(DueSlots::kMost, slots.size() - first));
    std::copy_n(slots.begin() + static_cast<int64_t>(first), due.count, due.slot);
    evict_due(batch, members, due);
  }
}

namespace {

// The next step of every due member's ladder, whose layers go together. Returns the most rows that one leaves.
int64_t climb_ladders(std::span<const DecodedMember> members, const DueSlots& due, RowCut& cut) {
  int64_t most = 0;
  for (int32_t i = 0; i < due.count; ++i) {
    std::vector<LayerEvictState>& layers = members[static_cast<size_t>(due.slot[i])].state->layers;
    for (LayerEvictState& s : layers) {
      RESTKV_CHECK(s.layer_total == layers.front().layer_total, "layers of {} and {} rows share a ladder",
                   s.layer_total, layers.front().layer_total);
      cut.step[i] = s.ladder->compact(s.layer_total);
      cut.ladder = s.ladder->shape();
    }
    most = std::max(most, cut.step[i].length);
  }
  return most;
}

}  // namespace

// All rules but rescoring: keys where the rule has some, one decision per head, one move.
void DecodeEvictor::evict_due(const DeviceEvictBatch& batch, std::span<const DecodedMember> members,
                              const DueSlots& due) const {
  RowCut cut;
  cut.window = config_.window;
  cut.sinks = config_.policy == "streaming_llm" ? config_.sinks : 0;
  int64_t most = 1, left = 1;  // rows of any head, now and afterwards
  for (int32_t i = 0; i < due.count; ++i)
    for (const LayerEvictState& s : members[static_cast<size_t>(due.slot[i])].state->layers) {
      most = std::max(most, s.layer_total);
      left = std::max(left, limits_of(s.layer_budget).target);
      for (size_t h = 0; h < s.total.size(); ++h) {
        most = std::max(most, s.total[h]);
        left = std::max(left, limits_of(s.budget[h]).target);
      }
    }
  Tensor keys;
  const auto make_keys = [&](int64_t rows) {
    keys = ctx_.empty(DType::i64, {due.count * batch.layers * rows * most});
    cut.keys = keys.data<int64_t>();
    cut.stride = most;
    return keys.data<int64_t>();
  };
  switch (rule_->kind()) {
    case RuleKind::position: cut.choice = RowChoice::position; break;
    case RuleKind::attention: {
      cut.choice = RowChoice::layer_keys;
      int64_t* sums = make_keys(1);
      gpu::sum_last_weights(ctx_, batch, due, sums, most);
      if (layout_.heads->size() > 1) layout_.heads->all_reduce(sums, keys.numel(), DType::i64, ReduceOp::sum);
      break;
    }
    case RuleKind::sums: cut.choice = RowChoice::sums; break;
    case RuleKind::key_norm:
      cut.choice = RowChoice::head_keys;
      gpu::key_norm_keys(ctx_, batch, due, make_keys(batch.heads), most);
      break;
    case RuleKind::random:
      cut.choice = RowChoice::random_draws;
      cut.seed = config_.seed;
      cut.first_head =
          config_.granularity == Granularity::query_head ? layout_.mine.local.q.begin : layout_.mine.local.kv.begin;
      cut.heads_per_kv = config_.granularity == Granularity::query_head ? layout_.mine.group() : 1;
      break;
    case RuleKind::ladder:
      cut.choice = RowChoice::ladder;
      left = std::max(left, climb_ladders(members, due, cut));
      break;
    case RuleKind::rescoring: break;
  }
  if (layout_.rows->size() > 1) {
    cut_in_group(batch, members, due, cut, most, left);
  } else {
    Tensor rows = ctx_.empty(DType::i32, {due.count * batch.layers * batch.heads * left}),
           counts = ctx_.empty(DType::i32, {due.count * batch.layers * batch.heads});
    const RowListsView lists{rows.data<int32_t>(), counts.data<int32_t>(), left};
    gpu::cut_rows(ctx_, batch, due, cut, lists);
    gpu::keep_rows(ctx_, batch, due, {0, batch.layers, 0, batch.heads}, lists);
  }
  for (int32_t i = 0; i < due.count; ++i) settle(members[static_cast<size_t>(due.slot[i])], cut.step[i].length);
}

namespace {

KeptRows last_rows(Context& ctx, int64_t heads, int64_t rows, int64_t count) {
  std::vector<int32_t> last(static_cast<size_t>(count));
  std::iota(last.begin(), last.end(), static_cast<int32_t>(rows - count));
  return KeptRows::from_host(ctx, std::vector<std::vector<int32_t>>(static_cast<size_t>(heads), last));
}

}  // namespace

// restkv and snapkv: what is left of a layer is scored as a prompt is whose last tokens are the last W queries. Heads
// that have equally many rows and keep equally many are scored together; where their rows are spread over ranks, on
// every rank.
void DecodeEvictor::rescore(const DeviceEvictBatch& batch, const DecodedMember& member, int64_t slot,
                            std::span<const float* const> r) const {
  if (batch.heads == 0) return;
  const int64_t W = config_.window, width = batch.heads * batch.group * batch.d, row = layers_ * width;
  // The ring from its oldest token on.
  Tensor ordered = ctx_.empty(DType::bf16, {W, layers_, width});
  const int64_t oldest = (member.position + 1) % W, element = size_of(DType::bf16);
  const char* ring = static_cast<const char*>(member.state->ring.raw());
  ctx_.copy(ordered.raw(), ring + oldest * row * element, (W - oldest) * row * element);
  if (oldest > 0)
    ctx_.copy(static_cast<char*>(ordered.raw()) + (W - oldest) * row * element, ring, oldest * row * element);

  const DueSlots due{1, {static_cast<int32_t>(slot)}};
  for (int64_t layer = 0; layer < layers_; ++layer) {
    const LayerEvictState& s = member.state->layers[static_cast<size_t>(layer)];
    const auto target = [&](int64_t h) {
      return limits_of(deals_to_heads(config_.allocation) ? s.budget[h] : s.layer_budget).target_of(s.total[h]);
    };
    for (int64_t first = 0, end = 0; first < batch.heads; first = end) {
      const int64_t n = s.total[first], left = target(first);
      for (end = first + 1; end < batch.heads && s.total[end] == n && target(end) == left;) ++end;
      if (left == 0) continue;
      const RowRun run{layer, 1, first, end - first};
      const MatrixView queries =
          MatrixView(ordered.raw(), DType::bf16, W, row, row)
              .block(0, W, layer * width + first * batch.group * batch.d, run.heads * batch.group * batch.d);
      rescore_heads(batch, due, run, n, left, queries, r);
    }
  }
}

// Heads of one layer of one member, of n rows, to `left` rows.
void DecodeEvictor::rescore_heads(const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run, int64_t n,
                                  int64_t left, const MatrixView& queries, std::span<const float* const> r) const {
  const bool grouped = layout_.rows->size() > 1;
  if (left <= config_.window) {  // heads without a budget beyond the window
    if (grouped) return keep_last_in_group(batch, due, run, left);
    const KeptRows last = last_rows(ctx_, run.heads, n, left);
    return gpu::keep_rows(ctx_, batch, due, run,
                          {last.rows.data<int32_t>(), last.counts.data<int32_t>(), last.capacity()});
  }
  const int64_t d = batch.d, layer = run.first_layer, Hq = run.heads * batch.group;
  Tensor k = ctx_.empty(DType::bf16, {n, run.heads * d}), v = ctx_.empty(DType::bf16, {n, run.heads * d});
  GroupKv of_group;
  if (grouped)
    of_group = gather_kv(batch, due, run, n, k, v);
  else
    gpu::gather_rows(ctx_, batch.layer + due.slot[0] * layers_ + layer, run.first_head, run.heads, n, d, k.raw(),
                     v.raw());
  CacheConfig config = config_;
  config.allocation = Allocation::uniform;
  config.budget = {left, 0.0};
  auto self = make_self_communicator();
  Evictor evictor(ctx_, *self, *self, {Hq, run.heads, d, {{0, Hq}, {0, run.heads}}}, config);
  const SequencePartition partition(n, 1);
  LayerKv input;
  input.layer = layer;
  input.partition = &partition;
  input.q_window = queries;
  input.k = MatrixView(k);
  input.v = MatrixView(v);
  if (evictor.needs_output_factors()) {
    RESTKV_CHECK(static_cast<int64_t>(r.size()) == layers_ && r[layer] != nullptr, "no output factors");
    input.r = resident_part_
                  ? factors_.at(static_cast<size_t>(layer)).data<float>() + run.first_head * batch.group * d * d
                  : r[layer] + (span().begin + run.first_head * batch.group - layout_.resident.q.begin) * d * d;
  }
  const KeptRows kept = evictor.evict(input);
  if (grouped) return keep_in_group(batch, due, run, of_group, kept);
  gpu::keep_rows(ctx_, batch, due, run, {kept.rows.data<int32_t>(), kept.counts.data<int32_t>(), kept.capacity()});
}

}  // namespace restkv
