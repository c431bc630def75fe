#include "model/decode_batch_device.h"

#include <algorithm>
#include <cmath>

#include "dist/base/error.h"

namespace restkv {

// Device memory of a batch, laid out for as many members as it began with.
struct DeviceDecodeBatch::Buffers {
  Buffers(Transformer& model, int64_t batch);

  DecodeHeads heads;
  DecodeStream stream;
  Tensor q, k, v;              // bf16 [batch, Hq_lc d], [batch, Hkv_lc d]
  Tensor attended, activated;  // bf16 [batch, Hq_lc d], [batch, I_lc]
  Tensor logits;               // f32 [batch, vocab]
  Tensor attention_scratch;
  Tensor frequencies;                 // f32 [d/2]
  Tensor tokens, positions;           // i32 [batch]
  Tensor steps;                       // i32 [batch] tokens sampled so far
  Tensor parameters;                  // SequenceSampling [batch]
  Tensor caches;                      // DeviceKvLayer [batch, layers]
  std::shared_ptr<void> host_tokens;  // i32 [batch], pinned
};

namespace {

// Cache heads of the rank's decode share: which one each query head reads, which KV head's new row each one gets.
DecodeHeads decode_heads(const Transformer& model) {
  const HeadLayout& mine = model.plan().decode.heads;
  const bool per_query = model.cache_config().granularity == Granularity::query_head;
  DecodeHeads heads;
  for (int64_t h = 0; h < mine.Hq_lc(); ++h) heads.head.push_back(per_query ? h : mine.kv_of(h));
  const int64_t cache_heads = per_query ? mine.Hq_lc() : mine.Hkv_lc();
  for (int64_t c = 0; c < cache_heads; ++c) heads.source.push_back(per_query ? mine.kv_of(c) : c);
  return heads;
}

template <class T>
void upload(Context& ctx, const Tensor& to, const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  ctx.gpu()->to_device(to.raw(), values.data(), bytes);
}

}  // namespace

DeviceDecodeBatch::Buffers::Buffers(Transformer& model, int64_t batch) : heads(decode_heads(model)) {
  Context& ctx = model.context();
  const ModelConfig& c = model.config();
  const Shard& mine = model.plan().decode;
  const int64_t q_width = mine.heads.Hq_lc() * c.d, kv_width = mine.heads.Hkv_lc() * c.d;
  stream = make_decode_stream(ctx, batch, c.hidden);
  q = ctx.empty(DType::bf16, {batch, q_width});
  k = ctx.empty(DType::bf16, {batch, kv_width});
  v = ctx.empty(DType::bf16, {batch, kv_width});
  attended = ctx.empty(DType::bf16, {batch, q_width});
  activated = ctx.empty(DType::bf16, {batch, mine.mlp.size()});
  logits = ctx.empty(DType::f32, {batch, c.vocab});
  attention_scratch = decode_attention_scratch(ctx, batch, heads, c.d);
  frequencies = ctx.to_device(model.frequencies().data(), DType::f32, {c.d / 2});
  for (Tensor* t : {&tokens, &positions, &steps}) *t = ctx.zeros(DType::i32, {batch});
  parameters = ctx.empty(DType::u8, {batch * static_cast<int64_t>(sizeof(SequenceSampling))});
  caches = ctx.empty(DType::u8, {batch * c.layers * static_cast<int64_t>(sizeof(DeviceKvLayer))});
  host_tokens = ctx.gpu()->allocate_pinned(batch * static_cast<int64_t>(sizeof(int32_t)));
}

DeviceDecodeBatch::DeviceDecodeBatch(Transformer& model, std::vector<Member> members)
    : DecodeBatch(std::move(members)), model_(model), ctx_(model.context()), steps_(members_.size(), 0) {
  RESTKV_CHECK(size() >= 1 && size() <= kMaxDecodeBatch, "a batch of {} sequences (1 to {})", size(), kMaxDecodeBatch);
  if (model.grid().size() > 1)
    fail_runtime("decoding on {} GPU ranks: this version decodes on one", model.grid().size());
  b_ = std::make_shared<Buffers>(model, size());
  prepare_members();
  for (int64_t i = 0; i < size(); ++i) {
    const Sequence& s = *members_[static_cast<size_t>(i)].sequence;
    RESTKV_CHECK(static_cast<int64_t>(s.logits.size()) == model.config().vocab, "member {} has no logits", i);
    ctx_.gpu()->to_device(b_->logits.rows(i, 1).raw(), s.logits.data(), b_->logits.rows(i, 1).bytes());
  }
  enqueue_sampling();
}

// What the device has to know of the members: after the batch begins or changes, and when a cache has moved.
void DeviceDecodeBatch::prepare_members() {
  std::vector<int32_t> positions, steps;
  std::vector<SequenceSampling> parameters;
  std::vector<DeviceKvLayer> caches;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& m = members_[i];
    positions.push_back(static_cast<int32_t>(m.sequence->length));
    steps.push_back(static_cast<int32_t>(steps_[i]));
    parameters.push_back(sequence_sampling(m.sampling, m.request));
    for (int64_t layer = 0; layer < model_.config().layers; ++layer)
      caches.push_back(m.sequence->cache.device_layer(layer));
  }
  upload(ctx_, b_->positions, positions);
  upload(ctx_, b_->steps, steps);
  upload(ctx_, b_->parameters, parameters);
  upload(ctx_, b_->caches, caches);
}

void DeviceDecodeBatch::fetch_tokens() {
  if (fetched_) return;
  const int64_t bytes = size() * static_cast<int64_t>(sizeof(int32_t));
  try {
    ctx_.gpu()->to_host_later(b_->host_tokens.get(), b_->tokens.raw(), bytes);
    ctx_.synchronize();
  } catch (const RuntimeFailure& e) {
    fail_runtime("rank {}, decode, step {} of a batch of {}: {}", model_.grid().rank(), steps_.front(), size(),
                 e.what());
  }
  const auto* tokens = static_cast<const int32_t*>(b_->host_tokens.get());
  tokens_.assign(tokens, tokens + size());
  fetched_ = true;
}

std::span<const int32_t> DeviceDecodeBatch::tokens() {
  fetch_tokens();
  return tokens_;
}

// Room in every cache, and the tokens where the device does not have them.
void DeviceDecodeBatch::before_step(std::span<const int32_t> tokens) {
  RESTKV_CHECK(static_cast<int64_t>(tokens.size()) == size(), "{} tokens for {} sequences", tokens.size(), size());
  const ModelConfig& c = model_.config();
  bool moved = false;
  for (size_t i = 0; i < members_.size(); ++i) {
    Sequence& s = *members_[i].sequence;
    if (tokens[i] < 0 || tokens[i] >= c.vocab)
      fail_input("decode: token {} is outside the vocabulary of {}", tokens[i], c.vocab);
    if (s.length >= c.max_positions)
      fail_input("decode: position {} is beyond the model's {} positions", s.length, c.max_positions);
    if (c.traits.sliding_window > 0 && s.length >= c.traits.sliding_window)
      fail_input("decode: position {} is beyond the sliding window of {} positions, whose mask GPUs lack", s.length,
                 c.traits.sliding_window);
    moved = s.cache.ensure_room(1) || moved;
  }
  if (moved) prepare_members();
  if (!fetched_ || !std::equal(tokens.begin(), tokens.end(), tokens_.begin(), tokens_.end()))
    upload(ctx_, b_->tokens, std::vector<int32_t>(tokens.begin(), tokens.end()));
}

void DeviceDecodeBatch::after_step() {
  for (size_t i = 0; i < members_.size(); ++i) {
    members_[i].sequence->cache.advance(1);
    ++members_[i].sequence->length;
    ++steps_[i];
  }
  fetched_ = false;
}

void DeviceDecodeBatch::step(std::span<const int32_t> tokens) {
  before_step(tokens);
  std::shared_ptr<void>& graph = graphs_[size()];
  if (!graph) graph = capture();
  ctx_.gpu()->launch(graph.get());
  after_step();
}

std::shared_ptr<void> DeviceDecodeBatch::capture() {
  capturing_ = true;
  auto graph = ctx_.gpu()->capture([&] {
    enqueue_forward();
    enqueue_sampling();
  });
  capturing_ = false;
  return graph;
}

void DeviceDecodeBatch::step_eagerly(std::span<const int32_t> tokens) {
  before_step(tokens);
  enqueue_forward();
  enqueue_sampling();
  after_step();
}

std::vector<PhaseTime> DeviceDecodeBatch::timed_step(std::span<const int32_t> tokens) {
  PhaseClock clock(ctx_);
  before_step(tokens);
  ctx_.synchronize();
  clock_ = &clock;
  enqueue_forward();
  enqueue_sampling();
  clock_ = nullptr;
  after_step();
  return clock.finish();
}

std::vector<float> DeviceDecodeBatch::logits(int64_t i) { return ctx_.to_host<float>(b_->logits.rows(i, 1)); }

void DeviceDecodeBatch::leave(int64_t i) {
  fetch_tokens();
  members_.erase(members_.begin() + i);
  steps_.erase(steps_.begin() + i);
  tokens_.erase(tokens_.begin() + i);
  if (members_.empty()) return;
  prepare_members();
  upload(ctx_, b_->tokens, tokens_);
}

// One token of every member through all layers, to logits; then positions and lengths go up.
void DeviceDecodeBatch::enqueue_forward() {
  const ModelConfig& c = model_.config();
  const TransformerWeights& w = model_.weights();
  const DecodeStream stream = b_->stream.first(size());
  start_phase("embed");
  decode_embed(ctx_, b_->tokens.rows(0, size()), w.embedding, model_.plan().resident.vocab, w.layers[0].attention_norm,
               stream, embedding_scale(c, Device::gpu));
  for (int64_t layer = 0; layer < c.layers; ++layer) enqueue_layer(layer);
  const Range held = model_.plan().resident.vocab, mine = model_.plan().decode.vocab;
  MatrixView head = MatrixView(w.output_head).block(mine.begin - held.begin, mine.size(), 0, c.hidden);
  start_phase("logits");
  decode_logits(ctx_, stream, c.rms_eps, head, MatrixView(b_->logits).block(0, size(), mine.begin, mine.size()));
  start_phase("advance");
  DecodeAdvance advance;
  advance.layer = static_cast<const DeviceKvLayer*>(b_->caches.raw());
  advance.batch = size();
  advance.layers = c.layers;
  advance.cache_heads = b_->heads.cache_heads();
  advance.position = b_->positions.data<int32_t>();
  advance.step = b_->steps.data<int32_t>();
  advance_decode(ctx_, advance);
}

void DeviceDecodeBatch::enqueue_layer(int64_t layer) {
  const ModelConfig& c = model_.config();
  const TransformerWeights& weights = model_.weights();
  const LayerWeights& w = weights.layers[static_cast<size_t>(layer)];
  const ShardPlan& plan = model_.plan();
  const HeadLayout &held = plan.resident.heads, &mine = plan.decode.heads;
  const DecodeStream stream = b_->stream.first(size());
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
  projection.rotation_factor = static_cast<float>(c.rope.attention_factor);
  projection.d = d;
  projection.frequencies = b_->frequencies.data<float>();
  projection.positions = b_->positions.data<int32_t>();
  projection.q = MatrixView(b_->q).block(0, n, 0, Hq);
  projection.k = MatrixView(b_->k).block(0, n, 0, Hkv);
  projection.v = MatrixView(b_->v).block(0, n, 0, Hkv);
  start_phase("qkv");
  decode_qkv(ctx_, stream, c.rms_eps, projection);

  BatchDecodeAttention attention;
  attention.q = projection.q;
  attention.k = projection.k;
  attention.v = projection.v;
  attention.position = projection.positions;
  attention.layer = static_cast<const DeviceKvLayer*>(b_->caches.raw()) + layer;
  attention.layer_stride = c.layers;
  attention.d = d;
  attention.scale = 1.0 / std::sqrt(static_cast<double>(d));
  attention.settled = capturing_;  // launches of graphs follow each other without overlap, kernels do not
  attention.out = MatrixView(b_->attended).block(0, n, 0, Hq);
  start_phase("attention");
  attention_decode_batch(ctx_, attention, b_->heads, b_->attention_scratch);
  start_phase("output");
  decode_residual(ctx_, attention.out, MatrixView(w.output).block(0, H, q0, Hq), w.mlp_norm, stream);

  const Range held_mlp = plan.resident.mlp, mlp = plan.decode.mlp;
  const int64_t first = mlp.begin - held_mlp.begin, I = mlp.size();
  const MatrixView gate_up(w.gate_up), activated = MatrixView(b_->activated).block(0, n, 0, I);
  start_phase("gate_up");
  decode_gate_up(ctx_, stream, c.rms_eps, gate_up.block(first, I, 0, H),
                 gate_up.block(held_mlp.size() + first, I, 0, H), c.traits.activation, activated);
  const bool last = layer + 1 == c.layers;
  start_phase("down");
  decode_residual(ctx_, activated, MatrixView(w.down).block(0, H, first, I),
                  last ? weights.final_norm : weights.layers[static_cast<size_t>(layer) + 1].attention_norm, stream);
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
