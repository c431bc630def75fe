// A policy scores the past of one layer; budgets, exchanges of the decision and compaction are common to all.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/config.h"
#include "kvcache/statistics/layer_statistics.h"

namespace restkv {

/// What one row of a policy's scores stands for, and so which heads share a kept set at least.
enum class ScoreUnit {
  query_head,  ///< Hq_lc rows; with Granularity::kv_head their mean over the group decides
  kv_head,     ///< Hkv_lc rows
  layer,       ///< one row: all heads of the layer keep the same
  layer_mean,  ///< Hq_lc rows, whose mean over all query heads of the layer (of all tensor ranks) decides for all heads
};

struct PolicyScores {
  /// [rows of PolicyEntry::unit, shard.stride] f32 at the local past positions; larger is kept first.
  Tensor values;
  /// i64 [Hq_lc] width and shift of the smoothing where it adapts; else empty.
  Tensor kernel, shift;
};

/// What a policy's statistics exchange for one layer; exchange_bytes.h turns it into bytes.
struct PolicyExchanges {
  bool softmax = false;      ///< logits(), softmax() or anything made of them
  int64_t output_rows = 0;   ///< rows per query head whose outputs are folded: 1 past_outputs(), W window_outputs()
  bool top_sets = false;     ///< top_position_sums()
  bool past_scores = false;  ///< begin_gather_past() of one row per query head
  bool column_sums = false;  ///< column_scores()
};

class Policy {
 public:
  virtual ~Policy() = default;
  /// Collective when the policy uses collective statistics.
  virtual PolicyScores score(LayerStatistics& layer) const = 0;
  /// Must name what score() exchanges; nothing by default.
  virtual PolicyExchanges exchanges(const CacheConfig&) const { return {}; }
  /// Whether score() reads LayerKv::prompt.
  virtual bool reads_prompt_queries() const { return false; }
  /// Whether score() reads LayerKv::r, for a policy whose entry says that it may.
  virtual bool uses_output_factors(const CacheConfig& config) const { return config.use_wo; }
  /// Past positions that a head of this layer keeps, `past_budget` unless the policy has a rule of its own; never more.
  virtual int64_t past_tokens(const CacheConfig&, const LayerKv&, int64_t past_budget) const { return past_budget; }
  /// Fewest past positions that a budget has to leave room for, beside the window.
  virtual int64_t least_past(const CacheConfig&) const { return 1; }
};

class DecodeRule;  // decode/decode_rule.h

/// A line of the table in table.cc.
struct PolicyEntry {
  std::string_view name;
  bool evicts = true;
  bool needs_window_queries = false;
  bool needs_output_factors = false;  ///< LayerKv::r, when Policy::uses_output_factors()
  ScoreUnit unit = ScoreUnit::query_head;
  std::vector<Pooling> poolings;  ///< what `pooling` may be; empty: the policy does not pool
  std::unique_ptr<Policy> (*make)(const CacheConfig& config) = nullptr;
  std::unique_ptr<DecodeRule> (*make_decode_rule)() = nullptr;  ///< null: not while decoding
  bool cache_positions = false;                                 ///< Positions::automatic means those in the cache
};

/// All policies, in the order in which messages list them.
const std::vector<PolicyEntry>& policy_table();

/// Throws InputError with the nearest known name and the whole list when there is no such policy.
const PolicyEntry& find_policy(std::string_view name);

/// Rows of scores that the selection of one layer works on, on the rank that has these heads.
int64_t selection_rows(const CacheConfig& config, const HeadLayout& heads);

// One line per file of this folder.
std::unique_ptr<Policy> make_restkv(const CacheConfig& config);
std::unique_ptr<Policy> make_random(const CacheConfig& config);
std::unique_ptr<Policy> make_snapkv(const CacheConfig& config);
std::unique_ptr<Policy> make_sliding_window(const CacheConfig& config);
std::unique_ptr<Policy> make_streaming_llm(const CacheConfig& config);
std::unique_ptr<Policy> make_key_norm(const CacheConfig& config);
std::unique_ptr<Policy> make_tova(const CacheConfig& config);
std::unique_ptr<Policy> make_h2o(const CacheConfig& config);
std::unique_ptr<Policy> make_lacache(const CacheConfig& config);

/// The ladder of policy lacache: the window's tokens are its most recent ones. Throws InputError when it does not fit.
LadderShape ladder_shape(const CacheConfig& config, int64_t layers, int64_t budget);

}  // namespace restkv
