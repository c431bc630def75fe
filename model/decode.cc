// Decode: one token through all layers, each rank with its share of the work (DecodeMode in shard_plan.h).
#include <algorithm>
#include <cmath>

#include "dist/base/activity.h"
#include "dist/base/error.h"
#include "dist/base/stopwatch.h"
#include "model/decode_batch_device.h"
#include "model/decode_buffers.h"
#include "model/ops/attention_decode.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rope.h"
#include "model/ops/swiglu.h"
#include "model/transformer.h"

namespace restkv {
namespace {

// y[1, n] = x[1, k] w^T (+ bias); zeros when this rank has no share of k.
void project(Context& ctx, const float* x, const MatrixView& w, float* y, const float* bias = nullptr) {
  if (w.cols == 0)
    std::fill_n(y, w.rows, 0.0f);
  else
    gemv(ctx, MatrixView(x, 1, w.cols), w, MatrixView(y, 1, w.rows));
  for (int64_t i = 0; bias != nullptr && i < w.rows; ++i) y[i] += bias[i];
}

}  // namespace

void Transformer::decode_step(Sequence& sequence, int32_t token) {
  if (token < 0 || token >= config_.vocab)
    fail_input("decode: token {} is outside the vocabulary of {}", token, config_.vocab);
  check_next(sequence);
  check_support(sequence.report.evicted, sequence.length + 1);
  if (ctx_.device() == Device::gpu) {
    DeviceDecodeBatch batch(*this, {{&sequence, {}, 0}});
    batch.step_eagerly({&token, 1});
    sequence.logits = batch.logits(0);
    return;
  }
  ActivityScope doing("decode");
  DecodeBuffers b(config_, plan_.decode);
  Communicator& group = plan_.mode == DecodeMode::tensor ? grid_.world() : grid_.tensor();
  int64_t H = config_.hidden;
  auto add_summed = [&](const Tensor& norm) {
    if (group.size() > 1) group.all_reduce(b.partial.data(), H, DType::f32, ReduceOp::sum);
    MatrixView partial(b.partial.data(), 1, H);
    if (!norm.empty()) rms_norm(ctx_, partial, norm, partial, config_.rms_eps);
    for (int64_t i = 0; i < H; ++i) b.x[i] += b.partial[i];
  };

  MatrixView x(b.x.data(), 1, H), normed(b.normed.data(), 1, H);
  embed_tokens({&token, 1}, x);
  b.rope = rope_table(ctx_, frequencies_at(sequence.length + 1), {sequence.length}, config_.rope.attention_factor);
  double attention_seconds = 0.0, mlp_seconds = 0.0;
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    const LayerWeights& w = weights_.layers[layer];
    activity().layer = layer;
    Stopwatch watch;
    rms_norm(ctx_, x, w.attention_norm, normed, config_.rms_eps);
    decode_attention(layer, sequence, b);
    add_summed(w.attention_output_norm);
    double half = watch.seconds();
    rms_norm(ctx_, x, w.mlp_norm, normed, config_.rms_eps);
    decode_mlp(layer, b);
    add_summed(w.mlp_output_norm);
    attention_seconds += half;
    mlp_seconds += watch.seconds() - half;
  }
  Stopwatch watch;
  activity().layer = -1;
  compute_logits(x, sequence.logits);
  sequence.decode_phases = {
      {"attention", attention_seconds, 0}, {"mlp", mlp_seconds, 0}, {"logits", watch.seconds(), 0}};
  ++sequence.length;
}

// b.partial = this rank's part of the attention block's output.
void Transformer::decode_attention(int64_t layer, Sequence& sequence, DecodeBuffers& b) {
  const float* h = b.normed.data();
  const LayerWeights& w = weights_.layers[layer];
  const HeadLayout &held = plan_.resident.heads, &mine = plan_.decode.heads;
  int64_t d = config_.d, H = config_.hidden, q_rows = held.Hq_lc() * d, kv_rows = held.Hkv_lc() * d;
  int64_t q0 = (mine.local.q.begin - held.local.q.begin) * d, kv0 = (mine.local.kv.begin - held.local.kv.begin) * d;
  int64_t Hq = mine.Hq_lc(), Hkv = mine.Hkv_lc();
  MatrixView qkv(w.qkv);
  auto project_heads = [&](int64_t first, int64_t rows, float* y) {
    const float* bias = !w.qkv_bias.empty() ? w.qkv_bias.data<float>() + first : nullptr;
    project(ctx_, h, qkv.block(first, rows, 0, H), y, bias);
  };
  project_heads(q0, Hq * d, b.q.data());
  project_heads(q_rows + kv0, Hkv * d, b.k.data());
  project_heads(q_rows + kv_rows + kv0, Hkv * d, b.v.data());
  std::vector<int64_t> slot;  // with positions in the cache: of the new token, by cache head
  if (cache_config_.re_indexes()) {
    for (int64_t h = 0; h < sequence.cache.heads(); ++h) slot.push_back(sequence.cache.next_slot(layer, h));
  } else {
    apply_rope(ctx_, MatrixView(b.q.data(), 1, Hq * d), d, b.rope);
    apply_rope(ctx_, MatrixView(b.k.data(), 1, Hkv * d), d, b.rope);
  }

  // In sequence mode new tokens go round the ranks, which keeps the shards equally long.
  bool owner = plan_.mode == DecodeMode::tensor ||
               (sequence.length - sequence.prompt_tokens) % grid_.sequence_size() == grid_.sequence_rank();
  if (owner) sequence.cache.append(layer, b.k.data(), b.v.data(), cache_head_sources(mine).data(), sequence.length);

  if (numbers_slots()) sequence.cache.count_new_row(layer);

  std::vector<int64_t> head(static_cast<size_t>(Hq));
  for (int64_t i = 0; i < Hq; ++i) head[i] = cache_config_.granularity == Granularity::query_head ? i : mine.kv_of(i);
  const KvView kv =
      cache_config_.re_indexes() ? rotate_by_slots(layer, sequence, head, slot, b) : sequence.cache.view(layer);
  float* lse = b.attended.data() + Hq * d;
  DecodeAttention args{b.q.data(), head.data(), Hq, config_.attention_scale(), b.attended.data(), lse};
  args.softcap = config_.traits.attention_softcap;
  if (const int64_t window = config_.window_of(layer); window > 0)
    args.first_position = std::max<int64_t>(0, sequence.length + 1 - window);
  attention_decode(ctx_, args, kv);
  if (plan_.mode == DecodeMode::sequence && grid_.sequence_size() > 1) merge_over_sequence(b);
  evict_decoded(layer, b, lse, kv, sequence);
  project(ctx_, b.attended.data(), MatrixView(w.output).block(0, H, q0, Hq * d), b.partial.data());
}

// One collective: every rank's outputs and log-sum-exps, folded in rank order.
void Transformer::merge_over_sequence(DecodeBuffers& b) {
  int ranks = grid_.sequence_size();
  int64_t d = config_.d, Hq = plan_.decode.heads.Hq_lc(), part = Hq * (d + 1);
  std::vector<float> all(static_cast<size_t>(part * ranks)), out(static_cast<size_t>(Hq * d * ranks)),
      lse(static_cast<size_t>(Hq * ranks));
  grid_.sequence().all_gather(b.attended.data(), all.data(), part, DType::f32);
  for (int r = 0; r < ranks; ++r) {
    std::copy_n(&all[r * part], Hq * d, &out[r * Hq * d]);
    std::copy_n(&all[r * part + Hq * d], Hq, &lse[r * Hq]);
  }
  merge_partial_attention(ctx_, out.data(), lse.data(), ranks, Hq, d, b.attended.data());
  if (!decode_evictor_) return;
  for (int64_t h = 0; h < Hq; ++h) {
    float high = lse[h], sum = 0.0f;
    for (int r = 1; r < ranks; ++r) high = std::max(high, lse[r * Hq + h]);
    for (int r = 0; r < ranks; ++r) sum += std::exp(lse[r * Hq + h] - high);
    b.attended[Hq * d + h] = high + std::log(sum);
  }
}

// b.partial = this rank's part of the MLP's output.
void Transformer::decode_mlp(int64_t layer, DecodeBuffers& b) {
  const float* h = b.normed.data();
  const LayerWeights& w = weights_.layers[layer];
  Range held = plan_.resident.mlp, mine = plan_.decode.mlp;
  int64_t H = config_.hidden, I = mine.size(), first = mine.begin - held.begin;
  MatrixView gate_up(w.gate_up);
  project(ctx_, h, gate_up.block(first, I, 0, H), b.gate_up.data());
  project(ctx_, h, gate_up.block(held.size() + first, I, 0, H), b.gate_up.data() + I);
  gated_activation(ctx_, config_.traits.activation, MatrixView(b.gate_up.data(), 1, 2 * I),
                   MatrixView(b.activated.data(), 1, I));
  project(ctx_, b.activated.data(), MatrixView(w.down).block(0, H, first, I), b.partial.data());
}

}  // namespace restkv
