// Eviction while tokens are generated: generation of any length stays within a bound. A schedule says when
// (CacheConfig::decode), the policy which rows (decode_rule.h). CPU ranks evict in a layer when its token was attended;
// GPU ranks in all layers of a batch at once when the step is done, which is the same, since no layer looks at
// another's rows.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kvcache/decode/decode_rule.h"
#include "kvcache/decode/group_rows.h"

namespace restkv {

/// Of one sequence. Empty where nothing is evicted while decoding.
struct DecodeEvictState {
  std::vector<LayerEvictState> layers;
  // GPU ranks: what DeviceEvictRecord points to.
  Tensor ring;    // bf16 [W, layers, query heads here, d]
  Tensor limits;  // i32 [layers, cache heads, 2]
  Tensor excess;  // i32 [layers, cache heads], where rows of a head are spread over ranks

  /// A state that goes on by itself.
  DecodeEvictState clone(Context& ctx) const;
  DeviceEvictRecord record() const;
};

/// What the prompt left of one layer, on this rank.
struct PromptEnd {
  /// [min(W, L), resident query heads * d] queries of the last positions, rotated unless positions are those in the
  /// cache; empty unless needs_window_queries(). On the rank's device, as column_sums is.
  MatrixView q_window;
  /// i64 [resident query heads, L] column sums over the whole prompt; null unless needs_column_sums().
  const int64_t* column_sums = nullptr;
  const float* r = nullptr;  ///< [resident query heads, d, d] output factors; may be null
};

/// Memory for what a step gathers of the queries that share KV heads with this rank's. GPU ranks; empty where nothing
/// is gathered.
struct GatheredQueries {
  Tensor message, messages;  // i32
  Tensor q, lse;             // as DeviceEvictBatch::q, lse
};

struct DecodedToken {
  int64_t layer = 0;
  int64_t position = 0;
  int64_t index = 0;           ///< tokens decoded with this one
  const float* q = nullptr;    ///< [Hq_lc, d] rotated queries of the heads that this rank decodes
  const float* lse = nullptr;  ///< [Hq_lc] log-sum-exp of their scores over all rows
  double scale = 0.0;
  const float* r = nullptr;  ///< [resident query heads, d, d] output factors; may be null

  // With positions in the cache (CacheConfig::re_indexes); otherwise null.
  const KvView* keys = nullptr;      ///< the cache's rows here, keys rotated by their slots as q is
  const float* plain_q = nullptr;    ///< [Hq_lc, d] q before its rotation
  const float* rotations = nullptr;  ///< [slots, 2, d/2] cosines and sines of every slot up to the token's
};

/// One sequence of a batch, after a step.
struct DecodedMember {
  DecodeEvictState* state = nullptr;
  KvCache* cache = nullptr;
  int64_t position = 0;  ///< of the step's token
  int64_t index = 0;     ///< tokens decoded with this one
};

class DecodeEvictor {
 public:
  /// Throws InputError when the policy has no rule for decoding, or not in this layout, or the schedule does not fit.
  DecodeEvictor(Context& ctx, DecodeLayout layout, const CacheConfig& config, int64_t layers);

  /// Whether the rule looks at queries and keys at all, and not at positions alone.
  bool reads_queries() const { return rule_->reads_queries() || rule_->reads_window() || rule_->reads_column_sums(); }
  bool needs_window_queries() const { return rule_->reads_window(); }
  bool needs_column_sums() const { return rule_->reads_column_sums(); }

  /// Once per layer of a prefill of L tokens, when the layer's rows are in the cache; layers in order. Collective over
  /// `heads` of the layout.
  void begin_layer(DecodeEvictState& state, const PromptEnd& end, int64_t L, const KvCache& cache) const;
  /// Once after a prefill. kept [layers][cache heads of the model]: rows over all ranks; evicted: whether by the
  /// policy.
  void begin(DecodeEvictState& state, int64_t L, bool evicted, const std::vector<std::vector<int64_t>>& kept) const;

  /// After a token's attention in one layer, its row appended. Collective over the groups of the layout.
  void after_token(DecodeEvictState& state, const DecodedToken& token, KvCache& cache) const;

  // GPU ranks, in the place of after_token(). In stream order, without a wait.
  /// Whether the queries and log-sum-exps of all layers have to stay until the end of a step: DeviceEvictBatch::q, lse.
  bool needs_step_queries() const { return rule_->reads_queries(); }
  /// Whether query heads of one KV head lie on several ranks and every step has to gather them.
  bool gathers_queries() const { return gathers_; }
  /// For a batch of so many slots.
  GatheredQueries gathered_queries(int64_t slots) const;
  /// g.q, g.lse of members [0, count) = the queries of whole groups, from this rank's q bf16 and lse f32 [layers,
  /// slots, Hq_lc]. In stream order, may be part of a graph. Collective over `heads` of the layout.
  void gather_step_queries(const GatheredQueries& g, const void* q, const float* lse, int64_t slots,
                           int64_t count) const;
  /// DeviceEvictBatch of this rank, without its pointers.
  DeviceEvictBatch device_batch(int64_t slots) const;
  /// At the end of every step of members [0, count), before positions and lengths are advanced; may be part of a graph.
  void watch_step(const DeviceEvictBatch& batch, int64_t count) const;
  /// After a step, positions and lengths advanced on the device, KvCache::advance() called: evicts what is due. Member
  /// i is in slot i. r [layers]: output factors of the resident query heads, or null pointers. Collective over the
  /// groups of the layout. Where rows of a head are spread over ranks the caches do not know their lengths afterwards
  /// (KvCache::refresh_lengths()).
  void after_step(const DeviceEvictBatch& batch, std::span<const DecodedMember> members,
                  std::span<const float* const> r) const;

  /// Rows that a head of a layer can get beyond those that the prompt left it, in a sequence of any length.
  int64_t most_growth(int64_t L, int64_t layer, bool evicted) const;
  /// GPU ranks that share a head's rows: room that a head gets on a rank with L_lc of the prompt's tokens, so that in
  /// most cases it never grows.
  int64_t spread_growth(int64_t L, int64_t L_lc, int64_t layer, bool evicted) const;
  /// Most rows that a head holds over all ranks, in a sequence whose prompt has L tokens.
  int64_t most_rows(int64_t L) const;

 private:
  /// Rows above which a head is cut, and rows that are then left.
  struct Limits {
    int64_t trigger, target;
    int64_t target_of(int64_t total) const { return total > trigger ? target : 0; }  ///< 0: it is not cut
  };
  Limits limits_of(int64_t budget) const;
  int64_t cache_heads() const;
  Range span() const;
  Range summed_here(int64_t head) const;
  int64_t budget_of(int64_t L, int64_t layer) const;
  void begin_layer_on_gpu(DecodeEvictState& state, const PromptEnd& end, int64_t L, const KvCache& cache) const;
  void upload_limits(DecodeEvictState& state, int64_t L) const;
  bool is_due(const LayerEvictState& layer) const;
  void settle(const DecodedMember& member, int64_t ladder_rows) const;
  void evict_due(const DeviceEvictBatch& batch, std::span<const DecodedMember> members, const DueSlots& due) const;
  void rescore(const DeviceEvictBatch& batch, const DecodedMember& member, int64_t slot,
               std::span<const float* const> r) const;
  void rescore_heads(const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run, int64_t n, int64_t left,
                     const MatrixView& queries, std::span<const float* const> r) const;

  // Where query heads of one KV head lie on several ranks (split_heads.cc).
  Tensor gather_window(const MatrixView& q) const;
  void add_group_sums(int64_t* sums, int64_t rows, int64_t most) const;
  int64_t most_after_prompt(int64_t L) const;
  void gather_factors(int64_t layer, const float* r) const;

  // Where rows of a head are spread over GPU ranks (device_group.cc).
  struct GroupKv {
    Tensor all;  // what the messages point into
    GroupMessages messages;
  };
  void cut_in_group(const DeviceEvictBatch& batch, std::span<const DecodedMember> members, const DueSlots& due,
                    const RowCut& cut, int64_t most, int64_t left) const;
  GroupKv gather_kv(const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run, int64_t n, const Tensor& k,
                    const Tensor& v) const;
  void keep_in_group(const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run, const GroupKv& kv,
                     const KeptRows& kept) const;
  void keep_last_in_group(const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run, int64_t left) const;

  Context& ctx_;
  DecodeLayout layout_;
  CacheConfig config_;
  int64_t layers_;
  std::unique_ptr<DecodeRule> rule_;
  bool split_ = false;          // query heads of a cache head lie on several ranks
  bool resident_part_ = false;  // of some cache head's query heads this rank has no weights
  bool gathers_ = false;
  // With resident_part_: output factors of the span, [layers] of f32 [span, d, d], once they were gathered.
  mutable std::vector<Tensor> factors_;
  mutable bool has_factors_ = false;  // of all layers
};

}  // namespace restkv
