// Prefill: the whole prompt, layer by layer; each layer's cache is evicted before the next layer starts, so at most
// one layer's full K/V exists at any time.
#include <algorithm>
#include <array>
#include <cmath>

#include "dist/base/activity.h"
#include "dist/base/error.h"
#include "dist/base/stopwatch.h"
#include "kvcache/reshard.h"
#include "kvcache/statistics/column_sums.h"
#include "model/ops/add.h"
#include "model/ops/rms_norm.h"
#include "model/ops/swiglu.h"
#include "model/prefill_state.h"

namespace restkv {
namespace {

// The groups' calls are a phase of their own while it lives.
class TimedGroups {
 public:
  TimedGroups(std::array<PhasedCommunicator*, 2> groups, PhaseClock& clock) : groups_(groups) {
    for (PhasedCommunicator* group : groups_) group->set_clock(&clock);
  }
  ~TimedGroups() {
    for (PhasedCommunicator* group : groups_) group->set_clock(nullptr);
  }
  TimedGroups(const TimedGroups&) = delete;
  TimedGroups& operator=(const TimedGroups&) = delete;

 private:
  std::array<PhasedCommunicator*, 2> groups_;
};

}  // namespace

Sequence Transformer::prefill(std::span<const int32_t> tokens, const PrefillOptions& options) {
  int64_t L = static_cast<int64_t>(tokens.size());
  if (L == 0) fail_input("prompt: no tokens; at least one is needed");
  const int64_t room = decode_room(config_, cache_config_, L);
  if (L > config_.max_positions || options.max_new_tokens > room)
    fail_input("prompt: {} tokens and {} to generate exceed the model's {} positions{}", L, options.max_new_tokens,
               config_.max_positions,
               cache_config_.re_indexes() ? fmt::format(" (in the cache {} more have room)", room) : "");
  for (int32_t token : tokens)
    if (token < 0 || token >= config_.vocab)
      fail_input("prompt: token {} is outside the vocabulary of {}", token, config_.vocab);

  ActivityScope doing("prefill");
  Stopwatch whole;
  check_support(evictor_->evicts(L) || decode_evictor_, L + options.max_new_tokens, needs_prompt_queries(L));
  check_chunk(options);
  PrefillState s(*this, L, options);
  s.reserve = plan_.mode == DecodeMode::tensor
                  ? options.max_new_tokens
                  : (options.max_new_tokens + grid_.sequence_size() - 1) / grid_.sequence_size();
  if (decode_evictor_) s.reserve = std::min(s.reserve, decode_evictor_->most_rows(L));
  Sequence sequence{
      KvCache(ctx_, config_.layers, cache_heads(plan_.decode.heads), config_.d, activation_, numbers_slots()),
      L,
      L,
      {},
      {},
      {},
      {},
      L + room};
  prepare_decode_eviction(sequence);
  embed_prompt(tokens, s);
  run_layers(s, options, sequence);
  activity().layer = -1;
  emit_logits(s, options, sequence);
  finish_report(s, sequence);
  sequence.report.seconds = whole.seconds();
  return sequence;
}

void Transformer::embed_prompt(std::span<const int32_t> tokens, PrefillState& s) {
  std::vector<int32_t> local;
  for (int64_t position : s.positions) local.push_back(tokens[position]);
  const std::span<const int32_t> all(local);
  auto embed = [&](int64_t first, int64_t rows) {
    s.clock.start("embed");
    count_sent(grid_.tensor(), s.report.exchange_bytes, [&] {
      embed_tokens(all.subspan(static_cast<size_t>(first), static_cast<size_t>(rows)), s.x_rows(first, rows));
    });
  };
  if (!s.chunked()) embed(0, s.L_lc);
  for (const PrefillPart& chunk : s.chunks) {
    enter_chunk(chunk, s);
    embed(chunk.first, chunk.rows);
    leave_chunk(chunk, /*changed=*/true, s);
  }
}

void Transformer::run_layers(PrefillState& s, const PrefillOptions& options, Sequence& sequence) {
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    activity().layer = layer;
    const std::array<int64_t, 3> sent = {s.report.exchange_bytes, s.report.evict_bytes, s.report.reshard_bytes};
    const LayerWeights& w = weights_.layers[layer];
    if (s.chunked()) {
      chunked_layer(layer, w, s);
    } else {
      attention(layer, w, s);
      project_output(w, {0, s.L_lc}, s);
      mlp(w, {0, s.L_lc}, s);
    }
    settle(s, {0, s.L_lc});
    evict(layer, w, s, sequence);
    s.report.layer_bytes.push_back(
        {s.report.exchange_bytes - sent[0], s.report.evict_bytes - sent[1], s.report.reshard_bytes - sent[2]});
    if (options.progress) options.progress(layer + 1, config_.layers);
  }
}

// Rows of x [rows, H] += y w^T, summed over the tensor group, and normed unless `norm` is empty. The sum of one slice
// is on its way while the next slice is computed; settle() adds what is still missing.
void Transformer::add_partial(const MatrixView& y, const MatrixView& w, const Tensor& norm, Range rows,
                              PrefillState& s) {
  MatrixView x = s.x_rows(rows.begin, rows.size());
  if (grid_.tensor_size() == 1 && norm.empty()) {
    gemm(ctx_, y, w, x, /*accumulate=*/true);
    return;
  }
  const auto turn = static_cast<size_t>(s.next_sum);
  s.next_sum = 1 - s.next_sum;
  PendingSum &sum = s.sums[turn], &before = s.sums[1 - turn];
  finish_sum(sum, s);
  sum = {MatrixView(s.terms[turn]).block(0, rows.size(), 0, config_.hidden), &norm, nullptr, rows, true};
  gemm(ctx_, y, w, sum.term);
  if (grid_.tensor_size() > 1) {
    s.clock.start("exchange");
    sum.ticket = grid_.tensor().beside([&] {
      count_sent(grid_.tensor(), s.report.exchange_bytes, [&] {
        grid_.tensor().all_reduce(sum.term.data, rows.size() * config_.hidden, sum.term.dtype, ReduceOp::sum);
      });
    });
    s.clock.start("gemm");
  }
  finish_sum(before, s);
}

void Transformer::finish_sum(PendingSum& sum, PrefillState& s) {
  if (!sum.pending) return;
  if (sum.ticket) {
    s.clock.start("exchange");
    grid_.tensor().join(sum.ticket.get());
    s.clock.start("gemm");
  }
  if (!sum.norm->empty()) rms_norm(ctx_, sum.term, *sum.norm, sum.term, config_.rms_eps);
  add(ctx_, s.x_rows(sum.rows.begin, sum.rows.size()), sum.term);
  sum = {};
}

// Before the rows are read: adds the sums of theirs that are on their way.
void Transformer::settle(PrefillState& s, Range rows) {
  for (int i : {s.next_sum, 1 - s.next_sum}) {  // the older one first
    PendingSum& sum = s.sums[static_cast<size_t>(i)];
    if (sum.pending && !intersect(sum.rows, rows).empty()) finish_sum(sum, s);
  }
}

void Transformer::project_output(const LayerWeights& w, Range rows, PrefillState& s) {
  s.clock.start("gemm");
  for_slices(rows.begin, rows.size(), s.slice, [&](int64_t first, int64_t n) {
    add_partial(s.held_rows(s.attended, first, n), MatrixView(w.output), w.attention_output_norm, {first, first + n},
                s);
  });
}

// x += down(activation(gate(normed)) * up(normed)), slice by slice.
void Transformer::mlp(const LayerWeights& w, Range all, PrefillState& s) {
  int64_t H = config_.hidden, I = plan_.resident.mlp.size();
  for_slices(all.begin, all.size(), s.slice, [&](int64_t first, int64_t rows) {
    settle(s, {first, first + rows});
    MatrixView normed = MatrixView(s.normed).block(0, rows, 0, H);
    MatrixView gate_up = MatrixView(s.gate_up).block(0, rows, 0, 2 * I);
    MatrixView activated = MatrixView(s.activated).block(0, rows, 0, I);
    s.clock.start("norm");
    rms_norm(ctx_, s.x_rows(first, rows), w.mlp_norm, normed, config_.rms_eps);
    s.clock.start("gemm");
    gemm(ctx_, normed, MatrixView(w.gate_up), gate_up);
    s.clock.start("activation");
    gated_activation(ctx_, config_.traits.activation, gate_up, activated);
    s.clock.start("gemm");
    add_partial(activated, MatrixView(w.down), w.mlp_output_norm, {first, first + rows}, s);
  });
}

// `sums` holds what the policy reads of all queries: from all of them now, or as their chunks left it.
PromptQueries Transformer::sum_columns(PrefillState& s, Tensor& sums) {
  PromptQueries prompt;
  if (!s.keeps_queries) return prompt;
  if (s.chunked()) {
    sums = s.column_sums;
    if (grid_.sequence_size() > 1) grid_.sequence().all_reduce(sums.raw(), sums.numel(), DType::i64, ReduceOp::sum);
  } else {
    prompt = {MatrixView(s.q), MatrixView(s.k_all), s.lse.data<float>()};
    sums = prompt_column_sums(ctx_, grid_.sequence(), plan_.resident.heads, s.partition, prompt);
  }
  prompt.sums = sums.data<int64_t>();
  return prompt;
}

// Decides with the other ranks which rows stay, and moves them to the cache.
void Transformer::evict(int64_t layer, const LayerWeights& w, PrefillState& s, Sequence& sequence) {
  s.clock.start(s.evicts ? "scoring" : "compact");
  KeptRows kept;
  int64_t sent = grid_.sequence().stats().bytes_sent + grid_.tensor().stats().bytes_sent;
  Tensor sums;
  const PromptQueries prompt = sum_columns(s, sums);
  if (s.evicts) {
    LayerKv input;
    input.prompt = prompt;
    input.layer = layer;
    input.layers = config_.layers;
    input.form = config_.attention_form(layer);
    input.partition = &s.partition;
    if (!s.q_window.empty()) input.q_window = MatrixView(s.q_window);
    input.k = MatrixView(s.k);
    input.v = MatrixView(s.v);
    input.r = w.output_factors.empty() ? nullptr : w.output_factors.data<float>();
    const TimedGroups timed({&evict_sequence_, &evict_tensor_}, s.clock);
    kept = evictor_->evict(input, nullptr, &s.clock);
  } else {
    const HeadLayout& heads = plan_.resident.heads;
    bool per_query = cache_config_.granularity == Granularity::query_head;
    std::vector<int64_t> head;
    for (int64_t h = 0; h < cache_heads(heads); ++h)
      head.push_back(h + (per_query ? heads.local.q.begin : heads.local.kv.begin));
    kept = KeptRows::everything(s.L_lc, std::move(head));
  }
  s.report.evict_bytes += grid_.sequence().stats().bytes_sent + grid_.tensor().stats().bytes_sent - sent;
  s.clock.start("compact");
  keep(layer, kept, s, sequence);
  begin_decode_eviction(s, prompt.sums, sequence);
}

void Transformer::keep(int64_t layer, const KeptRows& kept, PrefillState& s, Sequence& sequence) {
  const HeadLayout& heads = plan_.resident.heads;
  bool per_query = cache_config_.granularity == Granularity::query_head;
  int64_t model_heads = per_query ? config_.Hq : config_.Hkv;
  // A KV head that lies on several tensor ranks is counted by the one that holds its first query head.
  std::vector<bool> counted;
  for (int64_t head : kept.head) counted.push_back(per_query || head * heads.group() >= heads.local.q.begin);
  const Tensor& positions = s.position_ids;
  tally_kept(ctx_, layer, kept, counted, positions, s.local_hash,
             s.local_counts.rows(layer * model_heads, model_heads));
  std::vector<int64_t> sources = cache_head_sources(heads);
  const Tensor& k = s.k_plain.empty() ? s.k : s.k_plain;
  if (plan_.mode == DecodeMode::sequence || grid_.sequence_size() == 1) {
    sequence.cache.store(layer, MatrixView(k), MatrixView(s.v), heads.Hkv_lc(), sources, positions, kept,
                         reserve_of(layer, s));
    if (numbers_slots())
      count_sent(grid_.sequence(), s.report.reshard_bytes, [&] { number_kept(layer, kept, s, sequence); });
    return;
  }
  int64_t sent = grid_.sequence().stats().bytes_sent;
  const KeptLayer rows{MatrixView(k), MatrixView(s.v), heads.Hkv_lc(), config_.d,
                       sources,       positions,       &kept,          &s.partition};
  reshard_by_head(ctx_, grid_.sequence(), rows, decode_cache_shares(), sequence.cache, layer, reserve_of(layer, s));
  s.report.reshard_bytes += grid_.sequence().stats().bytes_sent - sent;
}

// Logits of the wanted rows; every rank of the sequence group gets the row from its owner.
void Transformer::emit_logits(PrefillState& s, const PrefillOptions& options, Sequence& sequence) {
  s.clock.start("logits");
  int64_t H = config_.hidden;
  Tensor row = ctx_.empty(DType::f32, {1, H});
  auto logits_at = [&](int64_t position) {
    int owner = s.partition.owner(position);
    if (owner == grid_.sequence_rank()) {
      const int64_t local = s.partition.local_index(owner, position);
      if (s.residual)
        s.residual->fetch_row(local, row);
      else
        ctx_.copy(row.raw(), s.x.rows(local, 1).raw(), row.bytes());
    }
    if (grid_.sequence_size() > 1) grid_.sequence().broadcast(row.raw(), H, DType::f32, owner);
    compute_logits(MatrixView(row), sequence.logits);
  };
  for (int64_t position : options.logit_rows) {
    RESTKV_CHECK(position >= 0 && position < s.partition.length() && options.on_logits, "logits of row {} of {}",
                 position, s.partition.length());
    logits_at(position);
    options.on_logits(position, sequence.logits);
  }
  logits_at(s.partition.length() - 1);
}

void Transformer::finish_report(PrefillState& s, Sequence& sequence) {
  bool per_query = cache_config_.granularity == Granularity::query_head;
  int64_t L = s.partition.length(), heads = per_query ? config_.Hq : config_.Hkv;
  if (ctx_.gpu() != nullptr) sequence.cache.refresh_lengths();  // bytes() below needs them
  const std::vector<int64_t> counts = ctx_.to_host<int64_t>(s.local_counts);
  std::vector<uint64_t> totals(counts.begin(), counts.end());
  totals.push_back(ctx_.to_host<uint64_t>(s.local_hash)[0]);
  totals.push_back(static_cast<uint64_t>(sequence.cache.bytes()));
  grid_.control().all_reduce(std::span<uint64_t>(totals));
  s.report.phases = s.clock.finish();
  PrefillReport& report = sequence.report = s.report;
  for (const char* phase : {"scoring", "select", "evict_exchange", "compact"})
    report.evict_seconds += report.seconds_of(phase);
  report.cache_bytes = static_cast<int64_t>(totals.back());
  report.kept_hash = totals[totals.size() - 2];
  for (int64_t layer = 0; layer < config_.layers; ++layer)
    report.kept_counts.emplace_back(totals.begin() + layer * heads, totals.begin() + (layer + 1) * heads);
  report.evicted = s.evicts;
  report.budget = cache_config_.policy == "full" ? L : cache_config_.budget.resolve(L);
  if (!s.evicts)
    report.reason = cache_config_.policy == "full"
                        ? "policy full keeps everything"
                        : fmt::format("the prompt of {} tokens is not longer than the budget of {}", L, report.budget);
  // Without eviction every KV head holds every position once, whatever the granularity of the policy.
  if (decode_evictor_) decode_evictor_->begin(sequence.eviction, L, s.evicts, report.kept_counts);
  report.full_cache_bytes = 2 * config_.layers * config_.Hkv * L * config_.d * size_of(activation_);
}

}  // namespace restkv
