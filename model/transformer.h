// A decoder-only transformer over the ranks of a process grid: prefill with eviction, then token by token.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "dist/base/phase_clock.h"
#include "dist/comm/phased_communicator.h"
#include "dist/comm/process_grid.h"
#include "kvcache/config.h"
#include "kvcache/decode/decode_evictor.h"
#include "kvcache/evict.h"
#include "kvcache/positions.h"
#include "model/sequence.h"
#include "model/transformer_weights.h"

namespace restkv {

struct PrefillPart;
struct PendingSum;
struct RingBlock;

/// How the sequence ranks exchange a layer's keys and values during prefill.
enum class ContextPlan {
  allgather,  ///< every rank gathers the whole layer; a row's bits are the same on every sequence layout
  ring,       ///< chunks go round; partial attention is merged by log-sum-exp in f32
};
std::string_view name_of(ContextPlan plan);

struct TransformerOptions {
  DecodeMode decode = DecodeMode::tensor;
  std::optional<DType> weight_dtype = std::nullopt;  ///< f32 or bf16; by default each matrix as it loses nothing
  ContextPlan context = ContextPlan::allgather;
  /// Of the tensor group's sums in prefill; by default prefill_sum_dtype().
  std::optional<DType> sum_dtype = std::nullopt;
  bool peer_memory = true;  ///< GPU ranks decode over mapped memory where they can (decode_groups.h)
  double timeout_s = 30.0;  ///< longest that a rank waits for another one over mapped memory; 0: for ever
};

struct PrefillOptions {
  int64_t max_new_tokens = 0;  ///< room kept in the cache for decoding
  /// Called on every rank after each layer.
  std::function<void(int64_t layers_done, int64_t layers)> progress;
  /// Positions whose logits are wanted besides the last one's (tests, perplexity), ascending. Costs one output head
  /// product per row.
  std::vector<int64_t> logit_rows;
  std::function<void(int64_t position, std::span<const float> logits)> on_logits;
  /// Rows of a rank that a layer works on at a time, a multiple of 128; 0: all of them. Bounds the activations beside
  /// the residual stream and one layer's K/V (README.md). Not with ContextPlan::ring on several sequence ranks.
  int64_t chunk = 0;
  /// With chunks: the residual stream is at home in host memory (pinned, which the transformer keeps), and two chunks
  /// of it are on the device.
  bool host_residual = false;
};

/// The dtype of activations, K and V: f32 on CPU ranks, bf16 on GPUs. The residual stream is f32 on both.
DType activation_dtype(Device device);

/// The dtype in which terms of the tensor group's sums are exchanged during prefill: f32 on CPU ranks, on GPUs bf16
/// (half the bytes; the terms come from f32 accumulators and go into the f32 residual stream).
DType prefill_sum_dtype(Device device);

/// Tokens that may be decoded after a prompt of L (decode_room()).
int64_t decode_room(const ModelConfig& model, const CacheConfig& cache, int64_t L);

/// What embeddings are multiplied by: 1, or sqrt(hidden) rounded to the activations' dtype, as the reference does.
float embedding_scale(const ModelConfig& config, Device device);

/// Prompt rows whose MLP activations exist at once; a multiple of the GEMM's row tile.
int64_t prefill_slice_rows(Device device);

class DecodeGroups;

class Transformer {
 public:
  /// Reads this rank's weights. Collective in effect: every rank of the grid constructs one. References outlive the
  /// object. Throws InputError for a layout the heads do not allow, and for weights that do not fit.
  Transformer(Context& ctx, const ProcessGrid& grid, const ModelConfig& config, const WeightSource& source,
              const CacheConfig& cache, const TransformerOptions& options, const LoadProgress& progress = {});
  ~Transformer();

  Context& context() const { return ctx_; }
  const ModelConfig& config() const { return config_; }
  const ProcessGrid& grid() const { return grid_; }
  const CacheConfig& cache_config() const { return cache_config_; }
  const ShardPlan& plan() const { return plan_; }
  /// [d/2] inverse frequencies of the rotary embedding (of type dynamic: within the original positions).
  const std::vector<float>& frequencies() const { return frequencies_; }
  const TransformerWeights& weights() const { return weights_; }
  /// Null where nothing is evicted while decoding.
  const DecodeEvictor* decode_evictor() const { return decode_evictor_.get(); }
  /// GPU ranks: how they exchange while decoding. The first call is collective over the world.
  DecodeGroups& decode_groups();

  ContextPlan context_plan() const { return context_; }
  /// Goes on with another plan of exchange; the same on all ranks.
  void set_context_plan(ContextPlan plan) { context_ = plan; }

  /// Goes on with another policy, budget or window; the weights stay. Sequences made before are not to be decoded after
  /// it when the granularity changes. Throws InputError for a configuration that is not valid.
  void set_cache(const CacheConfig& cache);

  /// Reads the prompt (the same tokens on every rank), evicts layer by layer, and returns the sequence with the
  /// logits of the last position. Collective over the world. Throws InputError for an empty prompt, a token outside
  /// the vocabulary, a prompt that with max_new_tokens exceeds the model's positions (decode_room()), or options that
  /// are not valid.
  Sequence prefill(std::span<const int32_t> tokens, const PrefillOptions& options = {});

  /// Processes one token at position sequence.length and updates sequence.logits. Collective over the world. On GPUs
  /// this is for tests: DecodeBatch (decode_batch.h) decodes without leaving the device.
  void decode_step(Sequence& sequence, int32_t token);

  /// Throws InputError when no token may follow: the model's positions are used up.
  void check_next(const Sequence& sequence) const;

 private:
  struct PrefillState;
  struct DecodeBuffers;

  // Prefill, in the order of the layer.
  void run_layers(PrefillState& s, const PrefillOptions& options, Sequence& sequence);
  void attention(int64_t layer, const LayerWeights& w, PrefillState& s);
  void embed_prompt(std::span<const int32_t> tokens, PrefillState& s);
  void chunked_layer(int64_t layer, const LayerWeights& w, PrefillState& s);
  void enter_chunk(const PrefillPart& chunk, PrefillState& s);
  void leave_chunk(const PrefillPart& chunk, bool changed, PrefillState& s);
  std::vector<std::shared_ptr<void>> project_all_keys(const LayerWeights& w, PrefillState& s);
  void chunk_attention(int64_t layer, const PrefillPart& chunk, PrefillState& s);
  void project_qkv(const LayerWeights& w, const PrefillPart& part, bool queries, bool keys, PrefillState& s);
  void copy_window_queries(const PrefillPart& run, PrefillState& s);
  void gather_window_queries(PrefillState& s);
  std::shared_ptr<void> gather_keys(const PrefillPart& part, bool window_queries, PrefillState& s);
  void attend(int64_t layer, const PrefillPart& part, PrefillState& s);
  void gathered_attention(int64_t layer, const LayerWeights& w, PrefillState& s);
  void ring_attention(const LayerWeights& w, PrefillState& s);
  void attend_block(const RingBlock& block, const Tensor& held, int64_t rows, PrefillState& s);
  void project_output(const LayerWeights& w, Range rows, PrefillState& s);
  void mlp(const LayerWeights& w, Range rows, PrefillState& s);
  void add_partial(const MatrixView& y, const MatrixView& w, const Tensor& norm, Range rows, PrefillState& s);
  void finish_sum(PendingSum& sum, PrefillState& s);
  void settle(PrefillState& s, Range rows);
  PromptQueries sum_columns(PrefillState& s, Tensor& sums);
  void evict(int64_t layer, const LayerWeights& w, PrefillState& s, Sequence& sequence);
  void keep(int64_t layer, const KeptRows& kept, PrefillState& s, Sequence& sequence);
  void finish_report(PrefillState& s, Sequence& sequence);
  void emit_logits(PrefillState& s, const PrefillOptions& options, Sequence& sequence);

  // Eviction while decoding (decode_evict.cc).
  std::unique_ptr<DecodeEvictor> make_decode_evictor(const CacheConfig& cache) const;
  bool needs_prompt_queries(int64_t L) const;
  int64_t window_queries(int64_t L) const;
  void prepare_decode_eviction(Sequence& sequence) const;
  int64_t reserve_of(int64_t layer, const PrefillState& s) const;
  void begin_decode_eviction(const PrefillState& s, const int64_t* column_sums, Sequence& sequence) const;
  void evict_decoded(int64_t layer, const DecodeBuffers& b, const float* lse, const KvView& keys, Sequence& sequence);

  // Positions in the cache (decode_slots.cc).
  void check_positions(const CacheConfig& cache) const;
  bool spreads_rows() const { return plan_.mode == DecodeMode::sequence && grid_.sequence_size() > 1; }
  bool numbers_slots() const { return cache_config_.re_indexes() && spreads_rows(); }
  const Tensor& slot_table(int64_t slots);
  void number_kept(int64_t layer, const KeptRows& kept, const PrefillState& s, Sequence& sequence) const;
  std::vector<float> plain_window(const PrefillState& s) const;
  KvView rotate_by_slots(int64_t layer, const Sequence& sequence, const std::vector<int64_t>& head,
                         const std::vector<int64_t>& slot, DecodeBuffers& b);

  // Decode.
  void decode_attention(int64_t layer, Sequence& sequence, DecodeBuffers& b);
  void decode_mlp(int64_t layer, DecodeBuffers& b);
  void merge_over_sequence(DecodeBuffers& b);

  // Shared.
  std::vector<float> frequencies_at(int64_t length) const;
  void check_support(bool evicts, int64_t length, bool needs_queries = false) const;
  void check_chunk(const PrefillOptions& options) const;
  Tensor residual_home(int64_t rows);
  void lay_out_logits(DecodeMode mode);
  void embed_tokens(std::span<const int32_t> tokens, const MatrixView& x);
  void compute_logits(const MatrixView& x, std::vector<float>& logits);
  std::vector<int64_t> cache_head_sources(const HeadLayout& heads) const;
  std::vector<Range> decode_cache_shares() const;
  int64_t cache_heads(const HeadLayout& heads) const;

  Context& ctx_;
  const ProcessGrid& grid_;
  ModelConfig config_;
  DType activation_;
  DType sum_dtype_;
  ContextPlan context_;
  CacheConfig cache_config_;
  ShardPlan plan_;
  std::vector<float> frequencies_;
  PhasedCommunicator evict_sequence_, evict_tensor_;  // the groups as the evictor uses them
  std::unique_ptr<Evictor> evictor_;
  std::unique_ptr<Communicator> self_ = make_self_communicator("rows");
  std::unique_ptr<DecodeEvictor> decode_evictor_;  // null: nothing is evicted while decoding
  Tensor slot_table_;                              // CPU ranks: rotations of slots 0, 1, ... as far as they were needed
  TransformerWeights weights_;
  Tensor residual_home_;  // of the longest prompt so far, where it was asked for
  bool peer_memory_;
  double timeout_s_;
  std::unique_ptr<DecodeGroups> decode_groups_;
  std::vector<int64_t> logit_counts_, logit_offsets_;  // per rank of the group that shares the output head
};

}  // namespace restkv
