#include "model/decode_batch_device.h"

#include <algorithm>
#include <cmath>

#include "dist/base/error.h"
#include "model/decode_batch_buffers.h"
#include "model/ops/rope.h"

namespace restkv {

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
  stream = make_decode_stream(ctx, batch, c.hidden, std::max(q_width + 2 * kv_width, 2 * mine.mlp.size()));
  const DecodeEvictor* evictor = model.decode_evictor();
  const bool keeps_queries = evictor != nullptr && evictor->needs_step_queries();
  q = ctx.empty(DType::bf16, {keeps_queries ? batch * c.layers : batch, q_width});
  if (keeps_queries) lse = ctx.empty(DType::f32, {c.layers, batch, mine.heads.Hq_lc()});
  if (evictor != nullptr) evictions = ctx.empty(DType::u8, {batch * static_cast<int64_t>(sizeof(DeviceEvictRecord))});
  if (evictor != nullptr) gathered = evictor->gathered_queries(batch);
  k = ctx.empty(DType::bf16, {batch, kv_width});
  v = ctx.empty(DType::bf16, {batch, kv_width});
  attended = ctx.empty(DType::bf16, {batch, q_width});
  activated = ctx.empty(DType::bf16, {batch, mine.mlp.size()});
  logits = ctx.empty(DType::f32, {batch, c.vocab});
  if (model.grid().size() > 1 || c.traits.output_norms) terms = ctx.empty(DType::f32, {batch, c.hidden});
  if (model.decode_groups().merges()) partial = ctx.empty(DType::f32, {batch * mine.heads.Hq_lc() * (c.d + 1)});
  exchanged = model.decode_groups().make_buffers(batch);
  // More ranks than heads: one without heads takes part in everything else.
  if (heads.Hq_lc() > 0) attention_scratch = decode_attention_scratch(ctx, batch, heads, c.d);
  // The dynamic type has frequencies for every length (upload_frequencies).
  frequencies = c.rope.type == "dynamic" ? ctx.empty(DType::f32, {batch, c.d / 2})
                                         : ctx.to_device(model.frequencies().data(), DType::f32, {c.d / 2});
  for (Tensor* t : {&tokens, &positions, &steps, &owners, &prompts}) *t = ctx.zeros(DType::i32, {batch});
  parameters = ctx.empty(DType::u8, {batch * static_cast<int64_t>(sizeof(SequenceSampling))});
  caches = ctx.empty(DType::u8, {batch * c.layers * static_cast<int64_t>(sizeof(DeviceKvLayer))});
  host_tokens = ctx.gpu()->allocate_pinned(batch * static_cast<int64_t>(sizeof(int32_t)));
}

DeviceDecodeBatch::DeviceDecodeBatch(Transformer& model, std::vector<Member> members)
    : DecodeBatch(std::move(members)),
      model_(model),
      ctx_(model.context()),
      groups_(model.decode_groups()),
      evictor_(model.decode_evictor()),
      steps_(first_steps()) {
  RESTKV_CHECK(size() >= 1 && size() <= kMaxDecodeBatch, "a batch of {} sequences (1 to {})", size(), kMaxDecodeBatch);
  b_ = std::make_shared<Buffers>(model, size());
  allocate_views();
  prepare_members();
  for (int64_t i = 0; i < size(); ++i) {
    const Sequence& s = *members_[static_cast<size_t>(i)].sequence;
    RESTKV_CHECK(static_cast<int64_t>(s.logits.size()) == model.config().vocab, "member {} has no logits", i);
    ctx_.gpu()->to_device(b_->logits.rows(i, 1).raw(), s.logits.data(), b_->logits.rows(i, 1).bytes());
  }
  enqueue_sampling();
}

// In sequence mode new tokens go round the ranks, which keeps the shards equally long; otherwise every rank keeps all
// of its heads' tokens.
bool DeviceDecodeBatch::owns_next(const Sequence& s) const {
  const ProcessGrid& grid = model_.grid();
  return !groups_.merges() || (s.length - s.prompt_tokens) % grid.sequence_size() == grid.sequence_rank();
}

// What the device has to know of the members: after the batch begins or changes, and when a cache has moved.
void DeviceDecodeBatch::prepare_members() {
  std::vector<int32_t> positions, steps, owners, prompts;
  std::vector<SequenceSampling> parameters;
  std::vector<DeviceKvLayer> caches;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& m = members_[i];
    positions.push_back(static_cast<int32_t>(m.sequence->length));
    steps.push_back(static_cast<int32_t>(steps_[i]));
    owners.push_back(owns_next(*m.sequence) ? 1 : 0);
    prompts.push_back(static_cast<int32_t>(m.sequence->prompt_tokens));
    parameters.push_back(sequence_sampling(m.sampling, m.request));
    for (int64_t layer = 0; layer < model_.config().layers; ++layer)
      caches.push_back(m.sequence->cache.device_layer(layer));
  }
  upload(ctx_, b_->positions, positions);
  upload(ctx_, b_->steps, steps);
  upload(ctx_, b_->owners, owners);
  upload(ctx_, b_->prompts, prompts);
  upload(ctx_, b_->parameters, parameters);
  upload(ctx_, b_->caches, caches);
  upload_evictions();
  prepare_views();
}

void DeviceDecodeBatch::fetch_tokens() {
  if (fetched_) return;
  const int64_t bytes = size() * static_cast<int64_t>(sizeof(int32_t));
  try {
    ctx_.gpu()->to_host_later(b_->host_tokens.get(), b_->tokens.raw(), bytes);
    ctx_.synchronize();
    groups_.check();
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

// Of the length that every member has with the token to come.
void DeviceDecodeBatch::upload_frequencies() {
  const ModelConfig& c = model_.config();
  std::vector<float> frequencies;
  for (const Member& m : members_) {
    const std::vector<float> own = rope_frequencies(c.rope, c.d, m.sequence->length + 1);
    frequencies.insert(frequencies.end(), own.begin(), own.end());
  }
  upload(ctx_, b_->frequencies, frequencies);
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
    model_.check_next(s);
    if (owns_next(s)) moved = s.cache.ensure_room(1) || moved;
  }
  if (moved) prepare_members();
  if (c.rope.type == "dynamic") upload_frequencies();
  if (!fetched_ || !std::equal(tokens.begin(), tokens.end(), tokens_.begin(), tokens_.end()))
    upload(ctx_, b_->tokens, std::vector<int32_t>(tokens.begin(), tokens.end()));
}

void DeviceDecodeBatch::after_step() {
  for (size_t i = 0; i < members_.size(); ++i) {
    Sequence& s = *members_[i].sequence;
    if (owns_next(s)) s.cache.advance(1);
    ++s.length;
    ++steps_[i];
  }
  evict_due();
  fetched_ = false;
}

void DeviceDecodeBatch::step(std::span<const int32_t> tokens) {
  auto [it, first] = captured_.try_emplace(size());
  // Collectives, and cuBLASLt's kernels, have to be loaded before they are captured.
  if (first && (model_.grid().size() > 1 || size() > kStreamedBatch)) return step_eagerly(tokens);
  before_step(tokens);
  Step& step = it->second;
  if (!step.graph) {
    step = capture();
    ctx_.gpu()->launch(step.graph.get());  // whose bytes were counted while it was captured
  } else {
    launch(step);
  }
  after_step();
}

DeviceDecodeBatch::Step DeviceDecodeBatch::capture() {
  Step step;
  step.sent = stats();
  capturing_ = true;
  step.graph = ctx_.gpu()->capture([&] {
    enqueue_forward();
    enqueue_sampling();
  });
  capturing_ = false;
  const std::vector<CommStats> now = stats();
  for (size_t g = 0; g < now.size(); ++g)
    step.sent[g] = {now[g].calls - step.sent[g].calls, now[g].bytes_sent - step.sent[g].bytes_sent};
  return step;
}

void DeviceDecodeBatch::launch(const Step& step) {
  ctx_.gpu()->launch(step.graph.get());
  const ProcessGrid& grid = model_.grid();
  grid.world().add_stats(step.sent[0]);
  grid.sequence().add_stats(step.sent[1]);
  grid.tensor().add_stats(step.sent[2]);
}

std::vector<CommStats> DeviceDecodeBatch::stats() const {
  const ProcessGrid& grid = model_.grid();
  return {grid.world().stats(), grid.sequence().stats(), grid.tensor().stats()};
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
  after_step();
  clock_ = nullptr;
  return clock.finish();
}

std::vector<float> DeviceDecodeBatch::logits(int64_t i) {
  std::vector<float> row = ctx_.to_host<float>(b_->logits.rows(i, 1));
  groups_.check();
  return row;
}

void DeviceDecodeBatch::leave(int64_t i) {
  fetch_tokens();
  members_.erase(members_.begin() + i);
  steps_.erase(steps_.begin() + i);
  tokens_.erase(tokens_.begin() + i);
  if (members_.empty()) return;
  prepare_members();
  upload(ctx_, b_->tokens, tokens_);
}

}  // namespace restkv
