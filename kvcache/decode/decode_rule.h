// What a policy does while tokens are generated: it watches each new token, and says which rows stay. Internal to
// kvcache/decode and to the policies. The calls are for CPU ranks; on GPU ranks the kind of a rule says which kernels
// do the same (device_evictor.cc).
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "dist/comm/communicator.h"
#include "kvcache/config.h"
#include "kvcache/heads.h"
#include "kvcache/kv_cache.h"
#include "kvcache/ladder.h"

namespace restkv {

/// Which rows of the decode cache a rank holds. Ranks of the group `rows` have other rows of the same heads, those of
/// `heads` other heads; either may be a group of one.
struct DecodeLayout {
  Communicator* rows = nullptr;
  Communicator* heads = nullptr;
  std::vector<HeadRange> ranges;  ///< [ranks of `heads`] what each of them decodes
  HeadLayout mine;                ///< what this rank decodes
  HeadRange resident;             ///< the heads whose weights this rank has
};

/// What the eviction remembers of one layer of one sequence.
struct LayerEvictState {
  int64_t layer_total = 0;  ///< rows of every head, where all have equally many
  int64_t layer_budget = 0;
  std::vector<int64_t> total;   ///< [cache heads] rows of all ranks of `rows`
  std::vector<int64_t> budget;  ///< [cache heads] that the prompt's eviction gave
  /// [W, span, d] the last W queries, token t at t % W; of rules that read them. Not rotated where positions are those
  /// in the cache: slots change.
  std::vector<float> window;
  std::vector<std::vector<int64_t>> sums;  ///< [cache heads][rows here] running sums (column_sums.h)
  std::vector<int64_t> slots;              ///< positions of all ranks' rows, ascending; of the ladder
  std::optional<Ladder> ladder;
};

/// One layer at one token.
struct DecodeMoment {
  Context& ctx;
  const CacheConfig& config;
  const DecodeLayout& layout;
  int64_t layer = 0;
  int64_t position = 0;        ///< of the token; its row is the last in every head
  Range span;                  ///< query heads of the model that share the cache heads here
  const float* q = nullptr;    ///< [span, d] the token's queries
  const float* lse = nullptr;  ///< [span] over the rows of all ranks
  double scale = 0.0;
  const float* r = nullptr;  ///< [query heads from first_factor on, d, d] output factors; may be null
  int64_t first_factor = 0;
  const KvCache& cache;
  std::vector<int64_t> target;       ///< [cache heads] rows to keep; 0: all of them
  KvView rows = {};                  ///< the cache's rows here, with the keys that the token attended
  const float* rotations = nullptr;  ///< as in DecodedToken

  int64_t cache_heads() const { return cache.heads(); }
  /// Query heads of the model that share cache head h.
  Range queries_of(int64_t h) const {
    const int64_t group = config.granularity == Granularity::query_head ? 1 : layout.mine.group();
    return {span.begin + h * group, span.begin + (h + 1) * group};
  }
  int64_t kv_head_of(int64_t h) const { return queries_of(h).begin / layout.mine.group(); }
  /// Positions from here on are the window's.
  int64_t window_begin() const { return position + 1 - config.window; }
};

/// [cache heads] local rows that stay, ascending.
using RowLists = std::vector<std::vector<int32_t>>;

enum class RuleKind {
  position,   ///< the first and the last rows
  ladder,     ///< the steps of a ladder
  attention,  ///< weights of the last token, summed over all query heads of the layer
  sums,       ///< running sums of weights
  key_norm,
  random,
  rescoring,  ///< the policy itself, on the last W queries
};

class DecodeRule {
 public:
  virtual ~DecodeRule() = default;
  virtual RuleKind kind() const = 0;
  /// Whether watch() and keep() read the queries; then they come to every rank that has the cache head.
  virtual bool reads_queries() const { return false; }
  /// Whether every rank needs the last W queries of each cache head's whole group.
  virtual bool reads_window() const { return false; }
  virtual bool reads_column_sums() const { return false; }
  /// After every token, its row appended. Collective like keep().
  virtual void watch(LayerEvictState&, const DecodeMoment&) const {}
  /// The rows of heads with a target. Collective over the groups of the layout; all ranks call it at the same tokens.
  virtual RowLists keep(LayerEvictState& state, const DecodeMoment& moment) const = 0;
};

/// Larger is kept first, among equal ones the lower position.
struct ScoredRows {
  std::vector<int64_t> score;  ///< [rows here]
  std::vector<int64_t> position;
};

/// Of each head the rows of the window, and of those before it the best: together target[h] over all ranks of `rows`.
/// Heads without a target keep all. Collective over `rows`.
RowLists keep_best(Communicator& rows, const std::vector<ScoredRows>& heads, const std::vector<int64_t>& target,
                   int64_t window_begin);

/// weights [rows here] = exp(q . k * scale - lse) of query head q (of the model).
void decode_weights(const DecodeMoment& moment, int64_t q, int64_t cache_head, std::vector<float>& weights);

// One per policy that can: policies/table.cc.
std::unique_ptr<DecodeRule> make_position_rule();  // sliding_window, streaming_llm
std::unique_ptr<DecodeRule> make_ladder_rule();    // lacache
std::unique_ptr<DecodeRule> make_tova_rule();
std::unique_ptr<DecodeRule> make_h2o_rule();
std::unique_ptr<DecodeRule> make_key_norm_rule();
std::unique_ptr<DecodeRule> make_random_rule();
std::unique_ptr<DecodeRule> make_rescoring_rule();  // restkv, snapkv

}  // namespace restkv
