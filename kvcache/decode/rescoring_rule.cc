// restkv and snapkv while decoding: the last W queries score the rows that are left, as at the end of a prompt whose
// tokens they are. Smoothing goes along the rows: neighbours are those that are left.
#include <algorithm>
#include <numeric>

#include "dist/base/error.h"
#include "kvcache/decode/decode_rule.h"
#include "kvcache/evict.h"

namespace restkv {
namespace {

/// A head's rows over all ranks, in the order of positions.
struct WholeHead {
  std::vector<float> k, v;  // [n, d]
  std::vector<int64_t> positions;
};

std::vector<float> gather_floats(Communicator& group, const float* mine, const std::vector<int64_t>& rows, int64_t d) {
  std::vector<int64_t> counts, offsets;
  int64_t total = 0;
  for (int64_t n : rows) {
    offsets.push_back(total * d);
    counts.push_back(n * d);
    total += n;
  }
  std::vector<float> all(static_cast<size_t>(total * d));
  group.all_gather_v(mine, all.data(), counts, offsets, DType::f32);
  return all;
}

WholeHead gather_head(const DecodeMoment& m, int64_t h) {
  Communicator& group = *m.layout.rows;
  const KvView& view = m.rows;
  const int64_t d = view.d, n = view.lengths[h];
  std::vector<int64_t> rows(static_cast<size_t>(group.size())), offsets(rows.size()),
      mine = m.cache.positions(m.layer, h);
  group.all_gather(&n, rows.data(), 1, DType::i64);
  std::exclusive_scan(rows.begin(), rows.end(), offsets.begin(), int64_t{0});
  WholeHead whole;
  std::vector<int64_t> positions(static_cast<size_t>(offsets.back() + rows.back()));
  group.all_gather_v(mine.data(), positions.data(), rows, offsets, DType::i64);
  const std::vector<float> k = gather_floats(group, view.k_head<float>(h), rows, d),
                           v = gather_floats(group, view.v_head<float>(h), rows, d);
  std::vector<int64_t> order(positions.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return positions[a] < positions[b]; });
  for (int64_t i : order) {
    whole.k.insert(whole.k.end(), &k[i * d], &k[i * d] + d);
    whole.v.insert(whole.v.end(), &v[i * d], &v[i * d] + d);
    whole.positions.push_back(positions[i]);
  }
  return whole;
}

// Turns the heads of a row by the rotation of one position: [2, d/2] cosines, then sines.
void rotate(float* row, int64_t heads, int64_t d, const float* rotation) {
  const int64_t half = d / 2;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < half; ++i) {
      float &low = row[h * d + i], &high = row[h * d + i + half];
      const float a = low, b = high, cos = rotation[i], sin = rotation[half + i];
      low = a * cos - b * sin;
      high = b * cos + a * sin;
    }
}

class RescoringRule : public DecodeRule {
 public:
  RuleKind kind() const override { return RuleKind::rescoring; }
  bool reads_queries() const override { return true; }
  bool reads_window() const override { return true; }

  RowLists keep(LayerEvictState& s, const DecodeMoment& m) const override {
    RowLists lists;
    for (int64_t h = 0; h < m.cache_heads(); ++h) {
      const std::vector<int64_t> mine = m.cache.positions(m.layer, h);
      std::vector<int32_t>& rows = lists.emplace_back();
      std::vector<int64_t> kept = mine;
      if (m.target[h] > 0) kept = kept_positions(s, m, h);
      for (size_t i = 0; i < mine.size(); ++i)
        if (std::binary_search(kept.begin(), kept.end(), mine[i])) rows.push_back(static_cast<int32_t>(i));
    }
    return lists;
  }

 private:
  // The decision of one head, taken by every rank that has rows of it, on all of its rows.
  static std::vector<int64_t> kept_positions(const LayerEvictState& s, const DecodeMoment& m, int64_t h) {
    const WholeHead whole = gather_head(m, h);
    const Range queries = m.queries_of(h);
    const int64_t W = m.config.window, d = m.layout.mine.d, group = queries.size();
    const int64_t n = static_cast<int64_t>(whole.positions.size());
    if (m.target[h] <= W) return {whole.positions.end() - m.target[h], whole.positions.end()};  // no budget beyond it
    std::vector<float> q;
    for (int64_t p = m.window_begin(); p <= m.position; ++p) {
      const float* row = &s.window[static_cast<size_t>((p % W * m.span.size() + queries.begin - m.span.begin) * d)];
      q.insert(q.end(), row, row + group * d);
      // The window's rows are the last: the token at `position` is in slot n - 1.
      if (m.rotations != nullptr)
        rotate(&q[q.size() - static_cast<size_t>(group * d)], group, d, m.rotations + (n - 1 - m.position + p) * d);
    }
    CacheConfig config = m.config;
    config.budget = {m.target[h], 0.0};
    config.allocation = Allocation::uniform;
    auto self = make_self_communicator();
    Evictor evictor(m.ctx, *self, *self, {group, 1, d, {{0, group}, {0, 1}}}, config);
    const SequencePartition partition(n, 1);
    LayerKv layer;
    layer.layer = m.layer;
    layer.partition = &partition;
    layer.q_window = MatrixView(q.data(), W, group * d);
    layer.k = MatrixView(const_cast<float*>(whole.k.data()), n, d);
    layer.v = MatrixView(const_cast<float*>(whole.v.data()), n, d);
    if (evictor.needs_output_factors()) {
      RESTKV_CHECK(m.r != nullptr, "no output factors");
      layer.r = m.r + (queries.begin - m.first_factor) * d * d;
    }
    std::vector<int64_t> kept;
    const std::vector<std::vector<int32_t>> rows = evictor.evict(layer).rows_to_host(m.ctx);
    for (int32_t row : rows.front()) kept.push_back(whole.positions[row]);
    return kept;
  }
};

}  // namespace

std::unique_ptr<DecodeRule> make_rescoring_rule() { return std::make_unique<RescoringRule>(); }

}  // namespace restkv
