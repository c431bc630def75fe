// The rules by position, and what the rules by scores share.
#include <algorithm>
#include <numeric>

#include "dist/base/error.h"
#include "dist/base/lanes.h"
#include "kvcache/decode/decode_rule.h"

namespace restkv {
namespace {

RowLists all_rows(const DecodeMoment& m) {
  RowLists lists;
  for (int64_t h = 0; h < m.cache_heads(); ++h) {
    lists.emplace_back(static_cast<size_t>(m.cache.length(m.layer, h)));
    std::iota(lists.back().begin(), lists.back().end(), 0);
  }
  return lists;
}

// The first `sinks` positions and the most recent ones.
class PositionRule : public DecodeRule {
 public:
  RuleKind kind() const override { return RuleKind::position; }
  RowLists keep(LayerEvictState&, const DecodeMoment& m) const override {
    const int64_t sinks = m.config.policy == "streaming_llm" ? m.config.sinks : 0;
    RowLists lists = all_rows(m);
    for (int64_t h = 0; h < m.cache_heads(); ++h) {
      if (m.target[h] == 0) continue;
      const std::vector<int64_t> positions = m.cache.positions(m.layer, h);
      const int64_t recent = m.position + 1 - (m.target[h] - sinks);
      std::erase_if(lists[h], [&](int32_t row) { return positions[row] >= sinks && positions[row] < recent; });
    }
    return lists;
  }
};

// Every rank goes through the ladder by itself: it knows the positions in all slots.
class LadderRule : public DecodeRule {
 public:
  RuleKind kind() const override { return RuleKind::ladder; }
  void watch(LayerEvictState& s, const DecodeMoment& m) const override { s.slots.push_back(m.position); }

  RowLists keep(LayerEvictState& s, const DecodeMoment& m) const override {
    const Ladder::Step step = s.ladder->compact(static_cast<int64_t>(s.slots.size()));
    const LadderCuts cuts = step.of_layer(s.ladder->shape(), m.layer);
    std::vector<int64_t> left;
    for (size_t slot = 0; slot < s.slots.size(); ++slot)
      if (cuts.place(static_cast<int64_t>(slot)) >= 0) left.push_back(s.slots[slot]);
    s.slots = std::move(left);
    RowLists lists = all_rows(m);
    for (int64_t h = 0; h < m.cache_heads(); ++h) {
      const std::vector<int64_t> positions = m.cache.positions(m.layer, h);
      std::erase_if(lists[h],
                    [&](int32_t row) { return !std::binary_search(s.slots.begin(), s.slots.end(), positions[row]); });
    }
    return lists;
  }
};

float dot(const float* a, const float* b, int64_t n) {
  Lanes acc = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) acc += load_lanes(a + i) * load_lanes(b + i);
  float sum = sum_lanes(acc);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

void decode_weights(const DecodeMoment& m, int64_t q, int64_t cache_head, std::vector<float>& weights) {
  const KvView& view = m.rows;
  const int64_t n = view.lengths[cache_head], d = view.d, padded = (n + kLanes - 1) / kLanes * kLanes;
  const float* k = view.k_head<float>(cache_head);
  weights.assign(static_cast<size_t>(padded), 0.0f);
  const float lse = m.lse[q - m.span.begin];
  for (int64_t i = 0; i < n; ++i)
    weights[i] = dot(m.q + (q - m.span.begin) * d, k + i * view.row_stride, d) * static_cast<float>(m.scale) - lse;
  for (int64_t i = 0; i < n; i += kLanes) store_lanes(&weights[i], exp_lanes(load_lanes(&weights[i])));
  weights.resize(static_cast<size_t>(n));
}

namespace {

struct Candidate {
  int64_t score, position;
  bool before(const Candidate& other) const {
    return score > other.score || (score == other.score && position < other.position);
  }
};

// What all ranks of the group have of every head: [heads] lists.
std::vector<std::vector<Candidate>> gather(Communicator& rows, const std::vector<std::vector<Candidate>>& mine) {
  if (rows.size() == 1) return mine;
  const int64_t heads = static_cast<int64_t>(mine.size());
  std::vector<int64_t> count, counts(static_cast<size_t>(heads * rows.size())), packed;
  for (const auto& head : mine) {
    count.push_back(static_cast<int64_t>(head.size()));
    for (const Candidate& c : head) packed.insert(packed.end(), {c.score, c.position});
  }
  rows.all_gather(count.data(), counts.data(), heads, DType::i64);
  std::vector<int64_t> sizes, offsets;
  int64_t total = 0;
  for (int rank = 0; rank < rows.size(); ++rank) {
    offsets.push_back(total);
    sizes.push_back(2 * std::accumulate(&counts[rank * heads], &counts[rank * heads] + heads, int64_t{0}));
    total += sizes.back();
  }
  std::vector<int64_t> all(static_cast<size_t>(total));
  rows.all_gather_v(packed.data(), all.data(), sizes, offsets, DType::i64);
  std::vector<std::vector<Candidate>> lists(static_cast<size_t>(heads));
  size_t at = 0;
  for (int rank = 0; rank < rows.size(); ++rank)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < counts[rank * heads + h]; ++i, at += 2) lists[h].push_back({all[at], all[at + 1]});
  return lists;
}

}  // namespace

RowLists keep_best(Communicator& rows, const std::vector<ScoredRows>& heads, const std::vector<int64_t>& target,
                   int64_t window_begin) {
  std::vector<std::vector<Candidate>> mine(heads.size());
  for (size_t h = 0; h < heads.size(); ++h)
    for (size_t i = 0; i < heads[h].score.size() && target[h] > 0; ++i)
      mine[h].push_back({heads[h].score[i], heads[h].position[i]});
  std::vector<std::vector<Candidate>> all = gather(rows, mine);
  RowLists lists(heads.size());
  for (size_t h = 0; h < heads.size(); ++h) {
    const int64_t n = static_cast<int64_t>(heads[h].score.size());
    if (target[h] == 0) {
      lists[h].resize(static_cast<size_t>(n));
      std::iota(lists[h].begin(), lists[h].end(), 0);
      continue;
    }
    std::vector<Candidate>& past = all[h];
    const auto window = std::erase_if(past, [&](const Candidate& c) { return c.position >= window_begin; });
    const int64_t k = target[h] - static_cast<int64_t>(window);
    RESTKV_CHECK(k >= 0 && k <= static_cast<int64_t>(past.size()), "{} of {} rows before the window", k, past.size());
    Candidate last{};
    if (k > 0) {
      std::nth_element(past.begin(), past.begin() + (k - 1), past.end(),
                       [](const Candidate& a, const Candidate& b) { return a.before(b); });
      last = past[static_cast<size_t>(k - 1)];
    }
    for (int64_t i = 0; i < n; ++i) {
      const Candidate c{heads[h].score[static_cast<size_t>(i)], heads[h].position[static_cast<size_t>(i)]};
      if (c.position >= window_begin || (k > 0 && !last.before(c))) lists[h].push_back(static_cast<int32_t>(i));
    }
  }
  return lists;
}

std::unique_ptr<DecodeRule> make_position_rule() { return std::make_unique<PositionRule>(); }

std::unique_ptr<DecodeRule> make_ladder_rule() { return std::make_unique<LadderRule>(); }

}  // namespace restkv
