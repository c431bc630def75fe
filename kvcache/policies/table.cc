#include <algorithm>

#include "dist/base/error.h"
#include "kvcache/decode/decode_rule.h"
#include "kvcache/policies/policy.h"

namespace restkv {
namespace {

// Single-character edits between two names.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

const std::vector<PolicyEntry>& policy_table() {
  using enum Pooling;
  using enum ScoreUnit;
  // name, evicts, needs window queries, needs output factors, unit of its scores, poolings, constructor, rule while
  // decoding, positions in the cache
  static const std::vector<PolicyEntry> table = {
      {"restkv", true, true, true, query_head, {adaptive, average, max, none}, make_restkv, make_rescoring_rule},
      {"full", false, false, false, kv_head, {}, nullptr},
      {"random", true, false, false, kv_head, {}, make_random, make_random_rule},
      {"snapkv", true, true, false, query_head, {average, max, none}, make_snapkv, make_rescoring_rule},
      {"sliding_window", true, false, false, layer, {}, make_sliding_window, make_position_rule},
      {"streaming_llm", true, false, false, layer, {}, make_streaming_llm, make_position_rule, true},
      {"h2o", true, false, false, query_head, {}, make_h2o, make_h2o_rule},
      {"lacache", true, false, false, layer, {}, make_lacache, make_ladder_rule, true},
      {"tova", true, true, false, layer_mean, {}, make_tova, make_tova_rule},
      {"key_norm", true, false, false, kv_head, {}, make_key_norm, make_key_norm_rule},
  };
  return table;
}

const PolicyEntry& find_policy(std::string_view name) {
  std::string known;
  std::string_view nearest;
  size_t best = 0;
  for (const PolicyEntry& entry : policy_table()) {
    if (entry.name == name) return entry;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
    size_t distance = edit_distance(name, entry.name);
    if (nearest.empty() || distance < best) nearest = entry.name, best = distance;
  }
  fail_input("cache.policy: found '{}', allowed: {}; nearest is '{}'", name, known, nearest);
}

int64_t selection_rows(const CacheConfig& config, const HeadLayout& heads) {
  switch (find_policy(config.policy).unit) {
    case ScoreUnit::layer:
    case ScoreUnit::layer_mean: return 1;
    case ScoreUnit::kv_head: return heads.Hkv_lc();
    case ScoreUnit::query_head: break;
  }
  return config.granularity == Granularity::query_head ? heads.Hq_lc() : heads.Hkv_lc();
}

}  // namespace restkv
