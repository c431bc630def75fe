// Prefill: the whole prompt, layer by layer; each layer's cache is evicted before the next layer starts, so at most
// one layer's full K/V exists at any time.
#include <algorithm>
#include <cmath>

#include "dist/base/activity.h"
#include "dist/base/error.h"
#include "dist/base/phase_clock.h"
#include "dist/base/stopwatch.h"
#include "dist/comm/gather_rows.h"
#include "kvcache/reshard.h"
#include "model/ops/add.h"
#include "model/ops/attention_prefill.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rope.h"
#include "model/ops/swiglu.h"
#include "model/transformer.h"

namespace restkv {
namespace {

// Calls body(first, rows) for consecutive runs of at most `slice` of the L_lc rows.
template <class Body>
void for_slices(int64_t L_lc, int64_t slice, const Body& body) {
  for (int64_t first = 0; first < L_lc; first += slice) body(first, std::min(slice, L_lc - first));
}

}  // namespace

struct Transformer::PrefillState {
  PrefillState(Context& ctx, const SequencePartition& partition_, int sequence_rank, const ModelConfig& config,
               const Shard& shard, int tensor_size)
      : partition(partition_),
        L_lc(partition.local_size(sequence_rank)),
        slice(std::max<int64_t>(1, std::min(prefill_slice_rows(ctx.device()), L_lc))),
        clock(ctx) {
    const DType dtype = activation_dtype(ctx.device());
    int64_t q_width = shard.heads.Hq_lc() * config.d, kv_width = shard.heads.Hkv_lc() * config.d;
    // In f32 on GPUs too: it takes two roundings a layer, which would add up over the layers.
    x = ctx.empty(DType::f32, {L_lc, config.hidden});
    q = ctx.empty(dtype, {L_lc, q_width});
    k = ctx.empty(dtype, {L_lc, kv_width});
    v = ctx.empty(dtype, {L_lc, kv_width});
    normed = ctx.empty(dtype, {slice, config.hidden});
    gate_up = ctx.empty(dtype, {slice, 2 * shard.mlp.size()});
    activated = ctx.empty(dtype, {slice, shard.mlp.size()});
    if (tensor_size > 1 || config.traits.output_norms) partial = ctx.empty(DType::f32, {slice, config.hidden});
    for (int64_t i = 0; i < L_lc; ++i) positions.push_back(partition.global_position(sequence_rank, i));
    position_ids = ctx.to_device(positions.data(), DType::i64, {L_lc});
    kv_lengths.assign(static_cast<size_t>(shard.heads.Hkv_lc()), partition.length());
    for (int64_t g = 0; g < shard.heads.Hkv_lc(); ++g) kv_offsets.push_back(g * config.d);
  }

  SequencePartition partition;
  int64_t L_lc;
  int64_t slice;  // rows of one slice
  PhaseClock clock;
  std::vector<int64_t> positions;  // [L_lc]
  Tensor position_ids;             // i64 [L_lc] the same on the device
  Tensor rope;                     // [L_lc, 2, d/2]
  Tensor x;                        // [L_lc, H] f32 the residual stream
  Tensor q, k, v;                  // [L_lc, Hq_lc d], [L_lc, Hkv_lc d]; attention overwrites q by its output
  Tensor q_window;                 // [W, Hq_lc d], only for policies that read it
  Tensor k_all, v_all;             // [L, Hkv_lc d] in global order
  Tensor normed, gate_up, activated, partial;  // one slice
  std::vector<int64_t> kv_lengths, kv_offsets;
  Tensor local_counts;  // i64 [layers * cache heads of the model] rows this rank kept
  Tensor local_hash;    // u64 [1]
  int64_t reserve = 0;
  bool evicts = false;
  PrefillReport report;
};

Sequence Transformer::prefill(std::span<const int32_t> tokens, const PrefillOptions& options) {
  int64_t L = static_cast<int64_t>(tokens.size());
  if (L == 0) fail_input("prompt: no tokens; at least one is needed");
  if (L + options.max_new_tokens > config_.max_positions)
    fail_input("prompt: {} tokens and {} to generate exceed the model's {} positions", L, options.max_new_tokens,
               config_.max_positions);
  for (int32_t token : tokens)
    if (token < 0 || token >= config_.vocab)
      fail_input("prompt: token {} is outside the vocabulary of {}", token, config_.vocab);

  ActivityScope doing("prefill");
  Stopwatch whole;
  PrefillState s(ctx_, SequencePartition(L, grid_.sequence_size()), grid_.sequence_rank(), config_, plan_.resident,
                 grid_.tensor_size());
  s.evicts = evictor_->evicts(L);
  check_support(s.evicts, L + options.max_new_tokens);
  s.reserve = plan_.mode == DecodeMode::tensor
                  ? options.max_new_tokens
                  : (options.max_new_tokens + grid_.sequence_size() - 1) / grid_.sequence_size();
  Sequence sequence{
      KvCache(ctx_, config_.layers, cache_heads(plan_.decode.heads), config_.d, activation_), L, L, {}, {}, {}};
  s.local_counts = ctx_.zeros(
      DType::i64, {config_.layers * (cache_config_.granularity == Granularity::query_head ? config_.Hq : config_.Hkv)});
  s.local_hash = ctx_.zeros(DType::u64, {1});

  s.clock.start("embed");
  std::vector<int32_t> local_tokens;
  for (int64_t position : s.positions) local_tokens.push_back(tokens[position]);
  embed_tokens(local_tokens, MatrixView(s.x));
  s.rope = rope_table(ctx_, frequencies_at(L), s.positions, config_.rope.attention_factor);

  run_layers(s, options, sequence);
  activity().layer = -1;
  emit_logits(s, options, sequence);
  finish_report(s, sequence);
  sequence.report.seconds = whole.seconds();
  return sequence;
}

void Transformer::run_layers(PrefillState& s, const PrefillOptions& options, Sequence& sequence) {
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    activity().layer = layer;
    const std::array<int64_t, 3> sent = {s.report.exchange_bytes, s.report.evict_bytes, s.report.reshard_bytes};
    const LayerWeights& w = weights_.layers[layer];
    project_qkv(w, s);
    gather_kv(s);
    attend(layer, s);
    project_output(w, s);
    mlp(w, s);
    evict(layer, w, s, sequence);
    s.report.layer_bytes.push_back(
        {s.report.exchange_bytes - sent[0], s.report.evict_bytes - sent[1], s.report.reshard_bytes - sent[2]});
    if (options.progress) options.progress(layer + 1, config_.layers);
  }
}

// normed = rms_norm(x); q, k, v = normed Wqkv^T (+ bias); rotate q and k.
void Transformer::project_qkv(const LayerWeights& w, PrefillState& s) {
  int64_t H = config_.hidden, q_width = s.q.size(1), kv_width = s.k.size(1);
  MatrixView weight(w.qkv);
  MatrixView wq = weight.block(0, q_width, 0, H), wk = weight.block(q_width, kv_width, 0, H),
             wv = weight.block(q_width + kv_width, kv_width, 0, H);
  auto project = [&](const MatrixView& normed, const MatrixView& w_part, const MatrixView& y, int64_t bias_at) {
    gemm(ctx_, normed, w_part, y);
    if (w.qkv_bias.empty()) return;
    // One row for all: a leading dimension of zero.
    add(ctx_, y, {w.qkv_bias.data<float>() + bias_at, DType::f32, y.rows, y.cols, 0});
  };
  for_slices(s.L_lc, s.slice, [&](int64_t first, int64_t rows) {
    MatrixView normed = MatrixView(s.normed).block(0, rows, 0, H);
    s.clock.start("norm");
    rms_norm(ctx_, MatrixView(s.x).block(first, rows, 0, H), w.attention_norm, normed, config_.rms_eps);
    s.clock.start("gemm");
    project(normed, wq, MatrixView(s.q).block(first, rows, 0, q_width), 0);
    project(normed, wk, MatrixView(s.k).block(first, rows, 0, kv_width), q_width);
    project(normed, wv, MatrixView(s.v).block(first, rows, 0, kv_width), q_width + kv_width);
  });
  s.clock.start("rope");
  apply_rope(ctx_, MatrixView(s.q), config_.d, s.rope);
  apply_rope(ctx_, MatrixView(s.k), config_.d, s.rope);
}

// All keys and values of this rank's heads in global order; the window's queries for the policy.
void Transformer::gather_kv(PrefillState& s) {
  s.clock.start("exchange");
  Communicator& sequence = grid_.sequence();
  int64_t sent = sequence.stats().bytes_sent, L = s.partition.length();
  auto gather = [&](const Tensor& local, Range range, Tensor& all) {
    if (!all.defined() || all.empty()) all = ctx_.empty(activation_, {range.size(), local.size(1)});
    if (sequence.size() == 1)
      ctx_.copy(all.raw(), local.rows(range.begin, range.size()).raw(), all.bytes());
    else
      gather_rows(sequence, s.partition, range, local.raw(), all.raw(), local.size(1), activation_);
  };
  if (sequence.size() == 1) {
    s.k_all = s.k;  // one rank's local order is the global order: a view, no copy
    s.v_all = s.v;
  } else {
    gather(s.k, {0, L}, s.k_all);
    gather(s.v, {0, L}, s.v_all);
  }
  s.report.exchange_bytes += sequence.stats().bytes_sent - sent;
  sent = sequence.stats().bytes_sent;
  if (s.evicts && evictor_->needs_window_queries()) gather(s.q, {L - cache_config_.window, L}, s.q_window);
  s.report.evict_bytes += sequence.stats().bytes_sent - sent;
}

// q = softmax(q K^T / sqrt(d)) V, for this rank's two chunks.
void Transformer::attend(int64_t layer, PrefillState& s) {
  s.clock.start("attention");
  int64_t width = s.q.size(1), first = 0;
  KvView kv{s.k_all.raw(), s.v_all.raw(), activation_,         plan_.resident.heads.Hkv_lc(),
            config_.d,     s.k.size(1),   s.kv_offsets.data(), s.kv_lengths.data()};
  for (Range chunk : s.partition.chunks_of(grid_.sequence_rank())) {
    MatrixView q = MatrixView(s.q).block(first, chunk.size(), 0, width);
    // A tile reads all of its queries before it writes its rows, so the output may take their place.
    attention_prefill(
        ctx_,
        {q, q, chunk.begin, config_.attention_scale(), config_.window_of(layer), config_.traits.attention_softcap}, kv,
        plan_.resident.heads);
    first += chunk.size();
  }
}

// y [rows, H] += x w^T, summed over the tensor group, and normed unless `norm` is empty.
void Transformer::add_partial(const MatrixView& x, const MatrixView& w, const Tensor& norm, const MatrixView& y,
                              PrefillState& s) {
  if (grid_.tensor_size() == 1 && norm.empty()) {
    gemm(ctx_, x, w, y, /*accumulate=*/true);
    return;
  }
  MatrixView partial = MatrixView(s.partial).block(0, y.rows, 0, y.cols);
  gemm(ctx_, x, w, partial);
  if (grid_.tensor_size() > 1) {
    s.clock.start("exchange");
    int64_t sent = grid_.tensor().stats().bytes_sent;
    grid_.tensor().all_reduce(partial.data, y.rows * y.cols, y.dtype, ReduceOp::sum);
    s.report.exchange_bytes += grid_.tensor().stats().bytes_sent - sent;
    s.clock.start("gemm");
  }
  if (!norm.empty()) rms_norm(ctx_, partial, norm, partial, config_.rms_eps);
  add(ctx_, y, partial);
}

void Transformer::project_output(const LayerWeights& w, PrefillState& s) {
  s.clock.start("gemm");
  int64_t width = s.q.size(1);
  for_slices(s.L_lc, s.slice, [&](int64_t first, int64_t rows) {
    add_partial(MatrixView(s.q).block(first, rows, 0, width), MatrixView(w.output), w.attention_output_norm,
                MatrixView(s.x).block(first, rows, 0, config_.hidden), s);
  });
}

// x += down(activation(gate(normed)) * up(normed)), slice by slice.
void Transformer::mlp(const LayerWeights& w, PrefillState& s) {
  int64_t H = config_.hidden, I = plan_.resident.mlp.size();
  for_slices(s.L_lc, s.slice, [&](int64_t first, int64_t rows) {
    MatrixView x = MatrixView(s.x).block(first, rows, 0, H), normed = MatrixView(s.normed).block(0, rows, 0, H);
    MatrixView gate_up = MatrixView(s.gate_up).block(0, rows, 0, 2 * I);
    MatrixView activated = MatrixView(s.activated).block(0, rows, 0, I);
    s.clock.start("norm");
    rms_norm(ctx_, x, w.mlp_norm, normed, config_.rms_eps);
    s.clock.start("gemm");
    gemm(ctx_, normed, MatrixView(w.gate_up), gate_up);
    s.clock.start("activation");
    gated_activation(ctx_, config_.traits.activation, gate_up, activated);
    s.clock.start("gemm");
    add_partial(activated, MatrixView(w.down), w.mlp_output_norm, x, s);
  });
}

// Decides with the other ranks which rows stay, and moves them to the cache.
void Transformer::evict(int64_t layer, const LayerWeights& w, PrefillState& s, Sequence& sequence) {
  s.clock.start(s.evicts ? "scoring" : "compact");
  KeptRows kept;
  int64_t sent = grid_.sequence().stats().bytes_sent + grid_.tensor().stats().bytes_sent;
  if (s.evicts) {
    LayerKv input;
    input.layer = layer;
    input.layers = config_.layers;
    input.partition = &s.partition;
    if (!s.q_window.empty()) input.q_window = MatrixView(s.q_window);
    input.k = MatrixView(s.k);
    input.v = MatrixView(s.v);
    input.r = w.output_factors.empty() ? nullptr : w.output_factors.data<float>();
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
  if (plan_.mode == DecodeMode::sequence || grid_.sequence_size() == 1) {
    sequence.cache.store(layer, MatrixView(s.k), MatrixView(s.v), heads.Hkv_lc(), sources, positions, kept, s.reserve);
    return;
  }
  int64_t sent = grid_.sequence().stats().bytes_sent;
  const KeptLayer rows{MatrixView(s.k), MatrixView(s.v), heads.Hkv_lc(), config_.d,
                       sources,         positions,       &kept,          &s.partition};
  reshard_by_head(ctx_, grid_.sequence(), rows, decode_cache_shares(), sequence.cache, layer, s.reserve);
  s.report.reshard_bytes += grid_.sequence().stats().bytes_sent - sent;
}

// Logits of the wanted rows; every rank of the sequence group gets the row from its owner.
void Transformer::emit_logits(PrefillState& s, const PrefillOptions& options, Sequence& sequence) {
  s.clock.start("logits");
  int64_t H = config_.hidden;
  Tensor row = ctx_.empty(DType::f32, {1, H});
  auto logits_at = [&](int64_t position) {
    int owner = s.partition.owner(position);
    if (owner == grid_.sequence_rank())
      ctx_.copy(row.raw(), s.x.rows(s.partition.local_index(owner, position), 1).raw(), row.bytes());
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
  report.evict_seconds = report.seconds_of("scoring") + report.seconds_of("select") + report.seconds_of("compact");
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
  report.full_cache_bytes = 2 * config_.layers * config_.Hkv * L * config_.d * size_of(activation_);
}

}  // namespace restkv
