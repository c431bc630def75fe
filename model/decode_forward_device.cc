// The batch on a GPU: one token of every member through all layers, as launches.
#include "model/decode_batch_buffers.h"
#include "model/decode_batch_device.h"
#include "model/ops/rms_norm.h"
#include "model/ops/softcap.h"

namespace restkv {

// From tokens to logits; then positions and lengths go up.
void DeviceDecodeBatch::enqueue_forward() {
  const ModelConfig& c = model_.config();
  const TransformerWeights& w = model_.weights();
  const DecodeStream stream = b_->stream.first(size());
  enqueue_embedding();
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    enqueue_attention(layer);
    enqueue_mlp(layer);
  }
  const Range held = model_.plan().resident.vocab, mine = groups_.own_columns();
  const Tensor logits = b_->logits.rows(0, size());
  MatrixView head = MatrixView(w.output_head).block(mine.begin - held.begin, mine.size(), 0, c.hidden);
  start_phase("logits");
  decode_logits(ctx_, stream, c.rms_eps, head, groups_.own_logits(b_->exchanged, logits));
  if (groups_.sums()) {
    start_phase("exchange");
    groups_.gather_logits(b_->exchanged, logits);
  }
  if (c.traits.logit_softcap > 0.0) softcap(ctx_, logits, c.traits.logit_softcap);
  enqueue_watch();
  enqueue_advance();
}

void DeviceDecodeBatch::enqueue_embedding() {
  const TransformerWeights& w = model_.weights();
  const DecodeStream stream = b_->stream.first(size());
  const Range held = model_.plan().resident.vocab, mine = groups_.embedding_rows();
  const Tensor& norm = w.layers[0].attention_norm;
  start_phase("embed");
  decode_embed(ctx_, b_->tokens.rows(0, size()), w.embedding.rows(mine.begin - held.begin, mine.size()), mine, norm,
               stream, embedding_scale(model_.config(), Device::gpu));
  if (model_.grid().tensor_size() == 1) return;
  start_phase("exchange");
  groups_.sum_embedding(norm, stream);
}

// b_->q, k and v of this rank's heads.
DecodeQkv DeviceDecodeBatch::enqueue_projection(int64_t layer) {
  const ModelConfig& c = model_.config();
  const LayerWeights& w = model_.weights().layers[static_cast<size_t>(layer)];
  const HeadLayout &held = model_.plan().resident.heads, &mine = model_.plan().decode.heads;
  const int64_t d = c.d, H = c.hidden, n = size(), q0 = (mine.local.q.begin - held.local.q.begin) * d,
                kv0 = (mine.local.kv.begin - held.local.kv.begin) * d, Hq = mine.Hq_lc() * d, Hkv = mine.Hkv_lc() * d,
                q_rows = held.Hq_lc() * d, kv_rows = held.Hkv_lc() * d;
  const MatrixView qkv(w.qkv);
  DecodeQkv projection;
  projection.wq = qkv.block(q0, Hq, 0, H);
  projection.wk = qkv.block(q_rows + kv0, Hkv, 0, H);
  projection.wv = qkv.block(q_rows + kv_rows + kv0, Hkv, 0, H);
  if (!w.qkv_bias.empty()) {
    const auto* bias = w.qkv_bias.data<float>();
    projection.q_bias = bias + q0;
    projection.k_bias = bias + q_rows + kv0;
    projection.v_bias = bias + q_rows + kv_rows + kv0;
  }
  projection.d = d;
  if (model_.cache_config().re_indexes()) {  // by enqueue_slots() instead
    projection.frequencies = b_->no_rotation.data<float>();
  } else {
    projection.rotation_factor = static_cast<float>(c.rope.attention_factor);
    projection.frequencies = b_->frequencies.data<float>();
    projection.frequency_stride = c.rope.type == "dynamic" ? d / 2 : 0;
  }
  projection.positions = b_->positions.data<int32_t>();
  projection.q = MatrixView(b_->q_of(layer)).block(0, n, 0, Hq);
  projection.k = MatrixView(b_->k).block(0, n, 0, Hkv);
  projection.v = MatrixView(b_->v).block(0, n, 0, Hkv);
  decode_qkv(ctx_, b_->stream.first(n), c.rms_eps, projection);
  return projection;
}

// b_->attended, and through the output projection into the stream.
void DeviceDecodeBatch::enqueue_attention(int64_t layer) {
  const ModelConfig& c = model_.config();
  const LayerWeights& w = model_.weights().layers[static_cast<size_t>(layer)];
  const HeadLayout &held = model_.plan().resident.heads, &mine = model_.plan().decode.heads;
  const int64_t d = c.d, n = size(), q0 = (mine.local.q.begin - held.local.q.begin) * d, Hq = mine.Hq_lc() * d;
  const MatrixView output = MatrixView(w.output).block(0, c.hidden, q0, Hq);
  start_phase("qkv");
  if (Hq == 0) {
    start_phase("attention");  // every rank has the same phases
    return enqueue_residual({nullptr, DType::bf16, n, 0, 0}, output, w.attention_output_norm, w.mlp_norm, "output");
  }
  const DecodeQkv projection = enqueue_projection(layer);

  BatchDecodeAttention attention;
  attention.q = projection.q;
  attention.k = projection.k;
  attention.v = projection.v;
  attention.position = projection.positions;
  attention.layer = static_cast<const DeviceKvLayer*>(b_->caches.raw()) + layer;
  attention.layer_stride = c.layers;
  attention.d = d;
  attention.scale = c.attention_scale();
  attention.sliding_window = c.window_of(layer);
  attention.softcap = c.traits.attention_softcap;
  attention.settled = capturing_;  // launches of graphs follow each other without overlap, kernels do not
  const MatrixView attended = MatrixView(b_->attended).block(0, n, 0, Hq);
  const int64_t rows = n * mine.Hq_lc();
  if (groups_.merges()) {
    attention.owner = b_->owners.data<int32_t>();
    attention.out_f32 = b_->partial.data<float>();
    attention.lse = attention.out_f32 + rows * d;
  } else {
    attention.out = attended;
    if (!b_->lse.empty()) attention.lse = b_->lse.rows(layer, 1).data<float>();
  }
  start_phase("attention");
  if (model_.cache_config().re_indexes()) enqueue_slots(layer, projection, attention);
  attention_decode_batch(ctx_, attention, b_->heads, b_->attention_scratch);
  if (groups_.merges()) {
    start_phase("exchange");
    groups_.merge(b_->exchanged, b_->partial, rows, attended.data,
                  b_->lse.empty() ? nullptr : b_->lse.rows(layer, 1).data<float>());
  }
  enqueue_residual(attended, output, w.attention_output_norm, w.mlp_norm, "output");
}

void DeviceDecodeBatch::enqueue_mlp(int64_t layer) {
  const ModelConfig& c = model_.config();
  const TransformerWeights& weights = model_.weights();
  const LayerWeights& w = weights.layers[static_cast<size_t>(layer)];
  const Range held = model_.plan().resident.mlp, mine = model_.plan().decode.mlp;
  const int64_t first = mine.begin - held.begin, I = mine.size(), n = size(), H = c.hidden;
  const bool last = layer + 1 == c.layers;
  const Tensor& norm = last ? weights.final_norm : weights.layers[static_cast<size_t>(layer) + 1].attention_norm;
  const MatrixView down = MatrixView(w.down).block(0, H, first, I);
  start_phase("gate_up");
  if (I == 0) return enqueue_residual({nullptr, DType::bf16, n, 0, 0}, down, w.mlp_output_norm, norm, "down");
  const MatrixView gate_up(w.gate_up), activated = MatrixView(b_->activated).block(0, n, 0, I);
  decode_gate_up(ctx_, b_->stream.first(n), c.rms_eps, gate_up.block(first, I, 0, H),
                 gate_up.block(held.size() + first, I, 0, H), c.traits.activation, activated);
  enqueue_residual(activated, down, w.mlp_output_norm, norm, "down");
}

// x += in w^T over all ranks' shares, normed by `output_norm` unless that is empty; `norm` is the one that follows.
// in [n, K], w [H, K]; K may be 0.
void DeviceDecodeBatch::enqueue_residual(const MatrixView& in, const MatrixView& w, const Tensor& output_norm,
                                         const Tensor& norm, const char* phase) {
  const DecodeStream stream = b_->stream.first(size());
  start_phase(phase);
  if (!groups_.sums() && output_norm.empty()) return decode_residual(ctx_, in, w, norm, stream);
  const Tensor terms = b_->terms.rows(0, size());
  if (w.cols == 0)
    ctx_.fill_zero(terms.raw(), terms.bytes());
  else
    decode_partial(ctx_, in, w, MatrixView(terms));
  if (groups_.sums()) start_phase("exchange");
  if (output_norm.empty()) return groups_.add_terms(terms, norm, stream);
  groups_.sum_terms(terms);
  start_phase(phase);
  rms_norm(ctx_, MatrixView(terms), output_norm, MatrixView(terms), model_.config().rms_eps);
  add_to_stream(ctx_, terms, norm, stream);
}

void DeviceDecodeBatch::enqueue_advance() {
  start_phase("advance");
  DecodeAdvance advance;
  advance.layer = static_cast<const DeviceKvLayer*>(b_->caches.raw());
  advance.batch = size();
  advance.layers = model_.config().layers;
  advance.cache_heads = b_->heads.cache_heads();
  advance.position = b_->positions.data<int32_t>();
  advance.step = b_->steps.data<int32_t>();
  if (groups_.merges()) {
    advance.owner = b_->owners.data<int32_t>();
    advance.prompt_tokens = b_->prompts.data<int32_t>();
    advance.sequence_ranks = model_.grid().sequence_size();
    advance.sequence_rank = model_.grid().sequence_rank();
  }
  advance_decode(ctx_, advance);
}

void DeviceDecodeBatch::enqueue_sampling() {
  start_phase("sample");
  SampleBatch args;
  args.logits = b_->logits.data<float>();
  args.batch = size();
  args.vocab = model_.config().vocab;
  args.sampling = static_cast<const SequenceSampling*>(b_->parameters.raw());
  args.step = b_->steps.data<int32_t>();
  args.token = b_->tokens.data<int32_t>();
  sample_batch(ctx_, args);
}

}  // namespace restkv
