// A policy scores the past of one layer; budgets, exchanges of the decision and compaction are common to all.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/config.h"
#include "kvcache/statistics/layer_statistics.h"

namespace restkv {

struct PolicyScores {
  /// [Hq_lc or Hkv_lc (PolicyEntry::unit), shard.stride] f32 at the local past positions; larger is kept first.
  Tensor values;
  /// i64 [Hq_lc] width and shift of the smoothing where it adapts; else empty.
  Tensor kernel, shift;
};

/// What a policy's statistics exchange for one layer; exchange_bytes.h turns it into bytes.
struct PolicyExchanges {
  bool softmax = false;      ///< logits(), softmax() or anything made of them
  int64_t output_rows = 0;   ///< rows per query head whose outputs are folded: 1 past_outputs(), W window_outputs()
  bool top_sets = false;     ///< top_position_sums()
  bool past_scores = false;  ///< gather_past() of one row per query head
};

class Policy {
 public:
  virtual ~Policy() = default;
  /// Collective when the policy uses collective statistics.
  virtual PolicyScores score(LayerStatistics& layer) const = 0;
  /// Must name what score() exchanges; nothing by default.
  virtual PolicyExchanges exchanges(const CacheConfig&) const { return {}; }
};

/// A line of the table in table.cc.
struct PolicyEntry {
  std::string_view name;
  bool evicts = true;
  bool needs_window_queries = false;
  bool needs_output_factors = false;           ///< LayerKv::r, when CacheConfig::use_wo
  Granularity unit = Granularity::query_head;  ///< what one row of scores stands for
  std::vector<Pooling> poolings;               ///< what `pooling` may be; empty: the policy does not pool
  std::unique_ptr<Policy> (*make)(const CacheConfig& config) = nullptr;
};

/// All policies, in the order in which messages list them.
const std::vector<PolicyEntry>& policy_table();

/// Throws InputError with the nearest known name and the whole list when there is no such policy.
const PolicyEntry& find_policy(std::string_view name);

// One line per file of this folder.
std::unique_ptr<Policy> make_restkv(const CacheConfig& config);
std::unique_ptr<Policy> make_random(const CacheConfig& config);
std::unique_ptr<Policy> make_snapkv(const CacheConfig& config);

}  // namespace restkv
