// The promise of kvcache/: the same Q, K and V give bit-identical decisions on every layout.
#pragma once

#include <cstring>

#include "kvcache/policies/policy.h"
#include "tests/kvcache/eviction_case.h"

namespace restkv::testing {

/// Rows of trace scores stand for KV heads, or all heads, when the policy decides for those alone.
inline size_t score_row(const EvictionCase& c, const RankResult& result, int64_t head) {
  const ScoreUnit unit = find_policy(c.config.policy).unit;
  if (unit == ScoreUnit::layer || unit == ScoreUnit::layer_mean) return 0;
  if (unit == ScoreUnit::kv_head && c.config.granularity == Granularity::query_head)
    return static_cast<size_t>(head / (c.Hq / c.Hkv) - result.q_heads.begin / (c.Hq / c.Hkv));
  return static_cast<size_t>(head - result.head.front());
}

/// What a rank of a layout decided is its part of what one rank decides alone, bit for bit.
inline void expect_part_of(const EvictionCase& c, const RankResult& whole, const RankResult& part, int rank,
                           int ranks) {
  const SequencePartition partition = c.partition(ranks);
  for (size_t row = 0; row < part.head.size(); ++row) {
    const int64_t head = part.head[row];
    std::vector<int64_t> expected;
    for (int64_t p : whole.kept[static_cast<size_t>(head)])
      if (partition.owner(p) == rank) expected.push_back(p);
    EXPECT_EQ(part.kept[row], expected) << c.name << " head " << head;
    if (part.past.empty()) continue;
    const auto& ours = part.scores.at(score_row(c, part, head));
    const auto& theirs = whole.scores.at(score_row(c, whole, head));
    ASSERT_EQ(ours.size(), part.past.size());
    size_t different = 0;
    for (size_t i = 0; i < ours.size(); ++i)
      different += std::memcmp(&ours[i], &theirs[static_cast<size_t>(part.past[i])], sizeof(float)) != 0;
    EXPECT_EQ(different, 0u) << c.name << " head " << head << ": scores with other bits, of " << ours.size();
  }
  ASSERT_EQ(part.kernel.size(), whole.kernel.empty() ? 0u : static_cast<size_t>(part.q_heads.size()));
  for (size_t h = 0; h < part.kernel.size(); ++h) {
    EXPECT_EQ(part.kernel[h], whole.kernel[static_cast<size_t>(part.q_heads.begin) + h]) << c.name;
    EXPECT_EQ(part.shift[h], whole.shift[static_cast<size_t>(part.q_heads.begin) + h]) << c.name;
  }
}

}  // namespace restkv::testing
