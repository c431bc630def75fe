#include "model/transformer.h"

#include <cmath>

#include "dist/base/copy_lane.h"
#include "dist/base/error.h"
#include "kvcache/output_factors.h"
#include "model/decode_groups.h"
#include "model/ops/embedding.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rope.h"
#include "model/prefill_chunks.h"

namespace restkv {

DType activation_dtype(Device device) { return device == Device::gpu ? DType::bf16 : DType::f32; }

DType prefill_sum_dtype(Device device) { return activation_dtype(device); }

std::string_view name_of(ContextPlan plan) { return plan == ContextPlan::ring ? "ring" : "allgather"; }

float embedding_scale(const ModelConfig& config, Device device) {
  if (!config.traits.scaled_embeddings) return 1.0f;
  const float root = std::sqrt(static_cast<float>(config.hidden));
  return activation_dtype(device) == DType::bf16 ? to_float(to_bf16(root)) : root;
}

// On GPUs slices are large enough for the full rate of the products; on CPUs they stay in the caches.
int64_t prefill_slice_rows(Device device) { return device == Device::gpu ? 4096 : 1024; }

Transformer::Transformer(Context& ctx, const ProcessGrid& grid, const ModelConfig& config, const WeightSource& source,
                         const CacheConfig& cache, const TransformerOptions& options, const LoadProgress& progress)
    : ctx_(ctx),
      grid_(grid),
      config_(config),
      activation_(activation_dtype(ctx.device())),
      sum_dtype_(options.sum_dtype.value_or(prefill_sum_dtype(ctx.device()))),
      context_(options.context),
      cache_config_(cache),
      plan_(make_shard_plan(config, grid.sequence_size(), grid.tensor_size(), grid.sequence_rank(), grid.tensor_rank(),
                            options.decode)),
      frequencies_(rope_frequencies(config.rope, config.d)),
      evict_sequence_(grid.sequence(), "evict_exchange"),
      evict_tensor_(grid.tensor(), "evict_exchange"),
      evictor_(std::make_unique<Evictor>(ctx, evict_sequence_, evict_tensor_, plan_.resident.heads, cache)),
      decode_evictor_(make_decode_evictor(cache)),
      peer_memory_(options.peer_memory),
      timeout_s_(options.timeout_s) {
  if (ctx.device() == Device::gpu && (config.d % 16 != 0 || config.d > 256))
    fail_input("a head size of {} on a GPU; supported there: multiples of 16 up to 256", config.d);
  RESTKV_CHECK(sum_dtype_ == DType::f32 || (sum_dtype_ == DType::bf16 && ctx.device() == Device::gpu),
               "sums over the tensor group in {} on {}", name_of(sum_dtype_), name_of(ctx.device()));
  check_positions(cache);
  weights_ = load_weights(ctx, source, config, plan_.resident, options.weight_dtype, evictor_->needs_output_factors(),
                          progress);
  lay_out_logits(options.decode);
}

void Transformer::set_cache(const CacheConfig& cache) {
  check_positions(cache);
  const HeadLayout& heads = plan_.resident.heads;
  auto evictor = std::make_unique<Evictor>(ctx_, evict_sequence_, evict_tensor_, heads, cache);
  auto decode_evictor = make_decode_evictor(cache);
  for (LayerWeights& w : weights_.layers) {
    if (!evictor->needs_output_factors())
      w.output_factors = Tensor();
    else if (w.output_factors.empty())
      w.output_factors = output_factors(ctx_, MatrixView(w.output), heads.Hq_lc(), config_.d);
  }
  evictor_ = std::move(evictor);
  decode_evictor_ = std::move(decode_evictor);
  cache_config_ = cache;
}

// Which rows of the vocabulary every rank of the group that shares the output head contributes.
void Transformer::lay_out_logits(DecodeMode mode) {
  int tensor = grid_.tensor_size();
  int ranks = mode == DecodeMode::tensor ? grid_.size() : tensor;
  for (int r = 0; r < ranks; ++r) {
    int sequence_rank = mode == DecodeMode::tensor ? r / tensor : grid_.sequence_rank();
    ShardPlan plan = make_shard_plan(config_, grid_.sequence_size(), tensor, sequence_rank, r % tensor, mode);
    logit_counts_.push_back(plan.decode.vocab.size());
    logit_offsets_.push_back(plan.decode.vocab.begin);
  }
}

Transformer::~Transformer() = default;

DecodeGroups& Transformer::decode_groups() {
  if (decode_groups_ == nullptr)
    decode_groups_ =
        std::make_unique<DecodeGroups>(ctx_, grid_, config_, plan_, DecodeGroupOptions{peer_memory_, timeout_s_});
  return *decode_groups_;
}

// The dynamic type's frequencies follow the length that the sequence has when a token is processed.
std::vector<float> Transformer::frequencies_at(int64_t length) const {
  return config_.rope.type == "dynamic" ? rope_frequencies(config_.rope, config_.d, length) : frequencies_;
}

// Refuses what this version cannot do. Layers 0 and 1 have all forms of attention that a model has.
void Transformer::check_support(bool evicts, int64_t length, bool needs_queries) const {
  if (needs_queries && context_ == ContextPlan::ring && grid_.sequence_size() > 1)
    fail_input(
        "parallel.context: found ring, allowed with cache.policy {}, which reads all queries and keys: allgather",
        cache_config_.policy);
  const bool plain = config_.attention_form(0).plain(length);
  if (!plain && evicts && evictor_->needs_prompt_queries())
    fail_input(
        "cache.policy {} in a model of the family {}, with {} positions: its column sums know no soft-cap, scale or "
        "sliding window; supported: any other policy",
        cache_config_.policy, config_.family, length);
  if (!plain && decode_evictor_)
    fail_input(
        "decode.every: found {}; in a model of the family {} with {} positions, whose attention has a "
        "soft-cap, a scale of its own or a sliding window, 0 is allowed",
        cache_config_.decode.every, config_.family, length);
  const int64_t window = config_.traits.sliding_window;
  if (window == 0 || length <= window) return;
  if (context_ == ContextPlan::ring && grid_.sequence_size() > 1)
    fail_input(
        "a sliding window with parallel.context: ring: the model attends {} positions, prompt and new tokens are {}; "
        "supported: parallel.context: allgather, or sequences within the window",
        window, length);
}

// Round the ring all rows of a rank attend what comes by, so their queries and totals are held together.
void Transformer::check_chunk(const PrefillOptions& options) const {
  check_prefill_chunk(options.chunk);
  if (options.host_residual && options.chunk == 0)
    fail_input("prefill.residual: found host, expected device, or a prefill.chunk by which it can come and go");
  if (options.chunk > 0 && context_ == ContextPlan::ring && grid_.sequence_size() > 1)
    fail_input("parallel.context: found ring, allowed with prefill.chunk: allgather");
}

// Taking pinned memory is slow, so it is kept; on CPU ranks, whose tensors lie in host memory anyway, it is not.
Tensor Transformer::residual_home(int64_t rows) {
  if (ctx_.gpu() == nullptr) return host_rows(ctx_, rows, config_.hidden);
  if (residual_home_.empty() || residual_home_.size(0) < rows) {
    residual_home_ = Tensor();
    residual_home_ = host_rows(ctx_, rows, config_.hidden);
  }
  return residual_home_;
}

void Transformer::embed_tokens(std::span<const int32_t> tokens, const MatrixView& x) {
  embed(ctx_, weights_.embedding, plan_.resident.vocab, tokens, x, embedding_scale(config_, ctx_.device()));
  if (grid_.tensor_size() > 1) grid_.tensor().all_reduce(x.data, x.rows * x.cols, x.dtype, ReduceOp::sum);
}

// x [1, H] on every rank -> logits [vocab] on every rank's host.
void Transformer::compute_logits(const MatrixView& x, std::vector<float>& logits) {
  Tensor normed = ctx_.empty(activation_, {1, config_.hidden});
  rms_norm(ctx_, x, weights_.final_norm, MatrixView(normed), config_.rms_eps);

  const Range held = plan_.resident.vocab, mine = plan_.decode.vocab;
  Tensor own = ctx_.empty(DType::f32, {1, mine.size()}), all = own;
  MatrixView head = MatrixView(weights_.output_head).block(mine.begin - held.begin, mine.size(), 0, config_.hidden);
  gemv(ctx_, MatrixView(normed), head, MatrixView(own));
  if (logit_counts_.size() > 1) {
    all = ctx_.empty(DType::f32, {1, config_.vocab});
    Communicator& group = plan_.mode == DecodeMode::tensor ? grid_.world() : grid_.tensor();
    group.all_gather_v(own.raw(), all.raw(), logit_counts_, logit_offsets_, DType::f32);
  }
  logits.resize(static_cast<size_t>(config_.vocab));
  ctx_.to_host(all.raw(), logits.data(), all.bytes());
  const auto cap = static_cast<float>(config_.traits.logit_softcap);
  for (size_t i = 0; cap > 0.0f && i < logits.size(); ++i) logits[i] = cap * std::tanh(logits[i] / cap);
}

int64_t Transformer::cache_heads(const HeadLayout& heads) const {
  return cache_config_.granularity == Granularity::query_head ? heads.Hq_lc() : heads.Hkv_lc();
}

// For each cache head the local KV head that its rows are copied from.
std::vector<int64_t> Transformer::cache_head_sources(const HeadLayout& heads) const {
  std::vector<int64_t> sources(static_cast<size_t>(cache_heads(heads)));
  for (int64_t h = 0; h < static_cast<int64_t>(sources.size()); ++h)
    sources[h] = cache_config_.granularity == Granularity::query_head ? heads.kv_of(h) : h;
  return sources;
}

// Which of this rank's resident cache heads every rank of the sequence group decodes.
std::vector<Range> Transformer::decode_cache_shares() const {
  std::vector<Range> shares;
  const HeadRange resident = plan_.resident.heads.local;
  for (int r = 0; r < grid_.sequence_size(); ++r) {
    HeadRange part = decode_share(plan_.resident, grid_.sequence_size(), r).heads.local;
    if (cache_config_.granularity == Granularity::query_head)
      shares.push_back({part.q.begin - resident.q.begin, part.q.end - resident.q.begin});
    else
      shares.push_back({part.kv.begin - resident.kv.begin, part.kv.end - resident.kv.begin});
  }
  return shares;
}

}  // namespace restkv
