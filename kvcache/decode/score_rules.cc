// Rules that give every row a score of its own: tova, h2o, key_norm, random.
#include <cmath>

#include "dist/base/error.h"
#include "kvcache/decode/decode_rule.h"
#include "kvcache/scores/random_scores.h"
#include "kvcache/select/radix_select.h"
#include "kvcache/statistics/column_sums.h"

namespace restkv {
namespace {

// The attention of the token just decoded, its mean over all query heads of the layer: all heads keep the same. (The
// source may drop the newest token; here the window stays.)
class TovaRule : public DecodeRule {
 public:
  RuleKind kind() const override { return RuleKind::attention; }
  bool reads_queries() const override { return true; }

  RowLists keep(LayerEvictState&, const DecodeMoment& m) const override {
    const int64_t first = m.layout.mine.local.q.begin, mine = m.layout.mine.Hq_lc();
    // All heads hold the same rows; a rank may have no head.
    int64_t n = m.cache_heads() > 0 ? m.cache.length(m.layer, 0) : 0;
    if (m.layout.heads->size() > 1) m.layout.heads->all_reduce(&n, 1, DType::i64, ReduceOp::max);
    // Integers: the same sum whatever rank has which heads.
    std::vector<int64_t> sums(static_cast<size_t>(n), 0);
    std::vector<float> weights;
    for (int64_t q = first; q < first + mine; ++q) {
      decode_weights(m, q, cache_head_of(m, q), weights);
      for (size_t i = 0; i < weights.size(); ++i) sums[i] += column_sum_of(weights[i]);
    }
    if (m.layout.heads->size() > 1) m.layout.heads->all_reduce(std::span<int64_t>(sums));
    if (m.cache_heads() == 0) return {};
    const ScoredRows rows{std::move(sums), m.cache.positions(m.layer, 0)};
    const RowLists one = keep_best(*m.layout.rows, {rows}, {m.target.front()}, m.window_begin());
    return RowLists(static_cast<size_t>(m.cache_heads()), one.front());
  }

 private:
  static int64_t cache_head_of(const DecodeMoment& m, int64_t q) {
    const int64_t group = m.config.granularity == Granularity::query_head ? 1 : m.layout.mine.group();
    return (q - m.span.begin) / group;
  }
};

// Sums that go on where the prompt's ended.
class H2oRule : public DecodeRule {
 public:
  RuleKind kind() const override { return RuleKind::sums; }
  bool reads_queries() const override { return true; }
  bool reads_column_sums() const override { return true; }

  void watch(LayerEvictState& s, const DecodeMoment& m) const override {
    std::vector<float> weights;
    for (int64_t h = 0; h < m.cache_heads(); ++h) {
      std::vector<int64_t>& sums = s.sums.at(static_cast<size_t>(h));
      sums.resize(static_cast<size_t>(m.cache.length(m.layer, h)), 0);
      const Range queries = m.queries_of(h);
      for (int64_t q = queries.begin; q < queries.end; ++q) {
        decode_weights(m, q, h, weights);
        for (size_t i = 0; i < sums.size(); ++i) sums[i] += column_sum_of(weights[i]);
      }
    }
  }

  RowLists keep(LayerEvictState& s, const DecodeMoment& m) const override {
    std::vector<ScoredRows> heads;
    for (int64_t h = 0; h < m.cache_heads(); ++h) heads.push_back({s.sums[h], m.cache.positions(m.layer, h)});
    return keep_best(*m.layout.rows, heads, m.target, m.window_begin());
  }
};

class KeyNormRule : public DecodeRule {
 public:
  RuleKind kind() const override { return RuleKind::key_norm; }
  RowLists keep(LayerEvictState&, const DecodeMoment& m) const override {
    const KvView& view = m.rows;
    std::vector<ScoredRows> heads;
    for (int64_t h = 0; h < m.cache_heads(); ++h) {
      heads.push_back({{}, m.cache.positions(m.layer, h)});
      for (int64_t i = 0; i < view.lengths[h]; ++i) {
        const float* k = view.k_head<float>(h) + i * view.row_stride;
        float sum = 0.0f;
        for (int64_t j = 0; j < view.d; ++j) sum += k[j] * k[j];
        heads.back().score.push_back(order_key(-std::sqrt(sum)));
      }
    }
    return keep_best(*m.layout.rows, heads, m.target, m.window_begin());
  }
};

class RandomRule : public DecodeRule {
 public:
  RuleKind kind() const override { return RuleKind::random; }
  RowLists keep(LayerEvictState&, const DecodeMoment& m) const override {
    std::vector<ScoredRows> heads;
    for (int64_t h = 0; h < m.cache_heads(); ++h) {
      heads.push_back({{}, m.cache.positions(m.layer, h)});
      const uint64_t key = random_scores_key(m.config.seed, m.layer, m.kv_head_of(h));
      for (int64_t p : heads.back().position)
        heads.back().score.push_back(static_cast<int64_t>(mix64(key ^ static_cast<uint64_t>(p)) >> 40));
    }
    return keep_best(*m.layout.rows, heads, m.target, m.window_begin());
  }
};

}  // namespace

std::unique_ptr<DecodeRule> make_tova_rule() { return std::make_unique<TovaRule>(); }

std::unique_ptr<DecodeRule> make_h2o_rule() { return std::make_unique<H2oRule>(); }

std::unique_ptr<DecodeRule> make_key_norm_rule() { return std::make_unique<KeyNormRule>(); }

std::unique_ptr<DecodeRule> make_random_rule() { return std::make_unique<RandomRule>(); }

}  // namespace restkv
