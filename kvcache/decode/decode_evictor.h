// Eviction while tokens are generated: generation of any length stays within a bound. A schedule says when
// (CacheConfig::decode), the policy which rows (decode_rule.h). CPU ranks, in both decode layouts.
#pragma once

#include <memory>
#include <vector>

#include "kvcache/decode/decode_rule.h"

namespace restkv {

/// Of one sequence; a copy goes on by itself. Empty where nothing is evicted while decoding.
struct DecodeEvictState {
  std::vector<LayerEvictState> layers;
};

/// What the prompt left of one layer, on this rank.
struct PromptEnd {
  /// [min(W, L), resident query heads * d] queries of the last positions, rotated unless positions are those in the
  /// cache; empty unless needs_window_queries().
  MatrixView q_window;
  /// i64 [resident query heads, L] column sums over the whole prompt; null unless needs_column_sums().
  const int64_t* column_sums = nullptr;
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

class DecodeEvictor {
 public:
  /// Throws InputError when the policy has no rule for decoding, or not in this layout, or the schedule does not fit.
  DecodeEvictor(Context& ctx, DecodeLayout layout, const CacheConfig& config, int64_t layers);

  bool needs_window_queries() const { return rule_->reads_window(); }
  bool needs_column_sums() const { return rule_->reads_column_sums(); }

  /// Once per layer of a prefill of L tokens, when the layer's rows are in the cache; layers in order.
  void begin_layer(DecodeEvictState& state, const PromptEnd& end, int64_t L, const KvCache& cache) const;
  /// Once after a prefill. kept [layers][cache heads of the model]: rows over all ranks; evicted: whether by the
  /// policy.
  void begin(DecodeEvictState& state, int64_t L, bool evicted, const std::vector<std::vector<int64_t>>& kept) const;

  /// After a token's attention in one layer, its row appended. Collective over the groups of the layout.
  void after_token(DecodeEvictState& state, const DecodedToken& token, KvCache& cache) const;

  /// Most rows that a head holds over all ranks, in a sequence whose prompt has L tokens.
  int64_t most_rows(int64_t L) const;

 private:
  int64_t cache_heads() const;
  Range span() const;
  int64_t budget_of(int64_t L, int64_t layer) const;

  Context& ctx_;
  DecodeLayout layout_;
  CacheConfig config_;
  int64_t layers_;
  std::unique_ptr<DecodeRule> rule_;
  bool split_ = false;  // query heads of a cache head lie on several ranks
};

}  // namespace restkv
