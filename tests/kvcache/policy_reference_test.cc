// The policies beside restkv and snapkv against their definitions, and against small cases worked out by hand.
#include <cmath>
#include <numeric>

#include "tests/kvcache/random_case.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

using Vector = std::vector<double>;

RankResult evict(const EvictionCase& c) {
  auto sequence = make_self_communicator("sequence"), tensor = make_self_communicator("tensor");
  return evict_case(c, *sequence, *tensor);
}

CacheConfig config_of(const char* policy, Granularity granularity = Granularity::kv_head) {
  CacheConfig config;
  config.policy = policy;
  config.granularity = granularity;
  return config;
}

std::vector<int64_t> positions(std::initializer_list<Range> ranges) {
  std::vector<int64_t> result;
  for (Range range : ranges)
    for (int64_t p = range.begin; p < range.end; ++p) result.push_back(p);
  return result;
}

// Every head keeps the same: `expected`.
void expect_all_heads(const EvictionCase& c, const std::vector<int64_t>& expected) {
  const RankResult result = evict(c);
  EXPECT_EQ(static_cast<int64_t>(result.kept.size()), c.config.granularity == Granularity::query_head ? c.Hq : c.Hkv);
  for (const auto& kept : result.kept) EXPECT_EQ(kept, expected) << c.name << ", " << c.config.policy;
}

TEST(PositionPolicies, SmallCasesByHand) {
  const CaseShape shape{20, 3, 8, 4, 2, 16};
  for (Granularity granularity : {Granularity::kv_head, Granularity::query_head}) {
    expect_all_heads(random_case("hand", shape, config_of("sliding_window", granularity), 1),
                     {12, 13, 14, 15, 16, 17, 18, 19});
    CacheConfig streaming = config_of("streaming_llm", granularity);  // four sinks
    expect_all_heads(random_case("hand", shape, streaming, 1), {0, 1, 2, 3, 16, 17, 18, 19});
    streaming.sinks = 0;
    expect_all_heads(random_case("hand", shape, streaming, 1), {12, 13, 14, 15, 16, 17, 18, 19});
    streaming.sinks = 5;  // as many as there is room for beside the window
    expect_all_heads(random_case("hand", shape, streaming, 1), {0, 1, 2, 3, 4, 17, 18, 19});
  }
}

TEST(PositionPolicies, FirstAndLastOfAnyLength) {
  for (const auto& [name, shape] : case_shapes()) {
    expect_all_heads(random_case(name, shape, config_of("sliding_window"), 1),
                     positions({{shape.L - shape.B, shape.L}}));
    for (int64_t sinks : {1, 4, 64}) {
      CacheConfig config = config_of("streaming_llm");
      config.sinks = sinks;
      const EvictionCase c = random_case(name, shape, config, 1);
      const int64_t first = c.config.sinks;  // no more than there is room for
      expect_all_heads(c, positions({{0, first}, {shape.L - (shape.B - first), shape.L}}));
    }
  }
}

// The softmax row of the last prompt token, averaged over the query heads.
Vector last_row_attention(const EvictionCase& c) {
  const int64_t W = c.config.window;
  Vector mean(static_cast<size_t>(c.L), 0.0);
  for (int64_t h = 0; h < c.Hq; ++h) {
    const float* q = &c.q[(h * W + W - 1) * c.d];
    Vector row;
    for (int64_t i = 0; i < c.L; ++i) {
      const float* k = &c.k[(h / (c.Hq / c.Hkv) * c.L + i) * c.d];
      row.push_back(
          std::inner_product(q, q + c.d, k, 0.0, std::plus<>(),
                             [](float x, float y) { return static_cast<double>(x) * static_cast<double>(y); }) /
          std::sqrt(static_cast<double>(c.d)));
    }
    const double max = *std::max_element(row.begin(), row.end());
    double sum = 0.0;
    for (double x : row) sum += std::exp(x - max);
    for (size_t i = 0; i < row.size(); ++i) mean[i] += std::exp(row[i] - max) / sum / static_cast<double>(c.Hq);
  }
  return mean;
}

// Scores of one row of the result, and the set of all heads that it decides for.
void expect_top(const EvictionCase& c, const Vector& scores, const RankResult& result, size_t row,
                const std::vector<size_t>& heads) {
  double largest = 0.0;
  for (int64_t i = 0; i < c.P(); ++i) largest = std::max(largest, std::abs(scores[i]));
  const double tolerance = kScoresF32 * largest;
  for (int64_t i = 0; i < c.P(); ++i) ASSERT_NEAR(result.scores[row][i], scores[i], tolerance) << c.name << " at " << i;
  std::vector<int64_t> order(static_cast<size_t>(c.P()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return scores[x] > scores[y]; });
  order.resize(static_cast<size_t>(c.config.budget.tokens - c.config.window));
  const double cut = scores[order.back()];
  for (int64_t p = c.P(); p < c.L; ++p) order.push_back(p);
  std::sort(order.begin(), order.end());
  for (size_t head : heads) {
    std::vector<int64_t> different;
    ASSERT_EQ(result.kept[head].size(), order.size());
    std::set_symmetric_difference(result.kept[head].begin(), result.kept[head].end(), order.begin(), order.end(),
                                  std::back_inserter(different));
    for (int64_t p : different) {
      ASSERT_LT(p, c.P()) << c.name << ": the window is kept";
      EXPECT_NEAR(scores[p], cut, tolerance) << c.name << " head " << head << " at " << p;
    }
    EXPECT_LE(different.size(), 4u) << c.name;
  }
}

TEST(Tova, LastRowOverAllHeads) {
  uint32_t seed = 20;
  for (Granularity granularity : {Granularity::kv_head, Granularity::query_head})
    for (const CaseShape& shape :
         {CaseShape{401, 16, 80, 6, 3, 24, 32}, CaseShape{260, 1, 50, 8, 1, 16}, CaseShape{300, 2, 60, 5, 5, 40}}) {
      const EvictionCase c = random_case("tova", shape, config_of("tova", granularity), seed++);
      const RankResult result = evict(c);
      ASSERT_EQ(result.scores.size(), 1u);
      std::vector<size_t> heads(result.kept.size());
      std::iota(heads.begin(), heads.end(), 0u);
      ASSERT_EQ(static_cast<int64_t>(heads.size()), granularity == Granularity::query_head ? c.Hq : c.Hkv);
      expect_top(c, last_row_attention(c), result, 0, heads);
    }
}

TEST(KeyNorm, ShortestKeys) {
  uint32_t seed = 40;
  for (Granularity granularity : {Granularity::kv_head, Granularity::query_head})
    for (const CaseShape& shape : {CaseShape{401, 16, 80, 6, 3, 24, 32}, CaseShape{700, 8, 90, 8, 1, 128},
                                   CaseShape{300, 2, 60, 5, 5, 40, 0, Content::underflow}}) {
      const EvictionCase c = random_case("key_norm", shape, config_of("key_norm", granularity), seed++);
      const RankResult result = evict(c);
      ASSERT_EQ(static_cast<int64_t>(result.scores.size()), c.Hkv);
      const size_t group = result.kept.size() / result.scores.size();
      for (size_t g = 0; g < result.scores.size(); ++g) {
        Vector scores;
        for (int64_t i = 0; i < c.L; ++i) {
          double sum = 0.0;
          for (int64_t j = 0; j < c.d; ++j) sum += std::pow(static_cast<double>(c.k[(g * c.L + i) * c.d + j]), 2.0);
          scores.push_back(-std::sqrt(sum));
        }
        std::vector<size_t> heads(group);
        std::iota(heads.begin(), heads.end(), g * group);
        expect_top(c, scores, result, g, heads);
      }
    }
}

// The causal softmax of every prompt query, added up per key.
Vector column_sums_of(const EvictionCase& c, int64_t head) {
  Vector sums(static_cast<size_t>(c.L), 0.0);
  for (int64_t i = 0; i < c.L; ++i) {
    const float* q = &c.q_all[(head * c.L + i) * c.d];
    Vector row;
    for (int64_t j = 0; j <= i; ++j) {
      const float* k = &c.k[(head / (c.Hq / c.Hkv) * c.L + j) * c.d];
      double dot = 0.0;
      for (int64_t x = 0; x < c.d; ++x) dot += static_cast<double>(q[x]) * static_cast<double>(k[x]);
      row.push_back(std::exp(dot / std::sqrt(static_cast<double>(c.d))));
    }
    const double sum = std::accumulate(row.begin(), row.end(), 0.0);
    for (size_t j = 0; j < row.size(); ++j) sums[j] += row[j] / sum;
  }
  return sums;
}

TEST(H2o, ColumnSumsOverThePrompt) {
  uint32_t seed = 70;
  for (Granularity granularity : {Granularity::kv_head, Granularity::query_head})
    for (const CaseShape& shape :
         {CaseShape{401, 100, 200, 6, 3, 24, 32}, CaseShape{260, 1, 50, 8, 1, 16}, CaseShape{300, 20, 60, 5, 5, 40}}) {
      const EvictionCase c = random_case("h2o", shape, config_of("h2o", granularity), seed++);
      const RankResult result = evict(c);
      const bool per_query = granularity == Granularity::query_head;
      ASSERT_EQ(static_cast<int64_t>(result.scores.size()), per_query ? c.Hq : c.Hkv);
      for (size_t row = 0; row < result.scores.size(); ++row) {
        Vector scores(static_cast<size_t>(c.L), 0.0);
        const int64_t group = per_query ? 1 : c.Hq / c.Hkv;
        for (int64_t j = 0; j < group; ++j) {
          const Vector one = column_sums_of(c, static_cast<int64_t>(row) * group + j);
          for (size_t i = 0; i < scores.size(); ++i) scores[i] += one[i] / static_cast<double>(group);
        }
        expect_top(c, scores, result, row, {row});
      }
    }
}

// One head, keys along two axes with logits 0, ln 3 or ln 2: rows (1), (1/2, 1/2), (1/5, 1/5, 3/5), (1/6, 1/6, 3/6,
// 1/6), (1/4 each of 0, 1, 3 and the last; key 2 is not seen well by it).
TEST(H2o, SmallCaseByHand) {
  EvictionCase c;
  c.L = 5, c.Hq = 1, c.Hkv = 1, c.d = 4;
  c.config = config_of("h2o");
  c.config.window = 1;
  c.config.budget.tokens = 3;
  c.q.assign(4, 0.0f), c.v.assign(20, 1.0f), c.k.assign(20, 0.0f), c.q_all.assign(20, 0.0f);
  c.k[2 * 4] = 1.0f;
  const float ln3 = static_cast<float>(std::log(3.0));
  c.q_all[2 * 4] = c.q_all[3 * 4] = 2.0f * ln3;  // the scale is 1/2
  c.q_all[4 * 4] = -200.0f;
  for (double sum : {1.0, 2.0, 5.0, 6.0, 4.0}) c.lse.push_back(static_cast<float>(std::log(sum)));
  const RankResult result = evict(c);
  const double e4 = std::exp(-100.0) / 4.0;
  const std::vector<double> expected = {1.0 + 0.5 + 0.2 + 1.0 / 6 + 0.25, 0.5 + 0.2 + 1.0 / 6 + 0.25, 0.6 + 0.5 + e4,
                                        1.0 / 6 + 0.25};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(result.scores[0][i], expected[i], 1e-6) << i;
  EXPECT_EQ(result.kept[0], (std::vector<int64_t>{0, 1, 4}));
}

TEST(KeyNorm, SmallCaseByHand) {
  EvictionCase c;
  c.L = 7, c.Hq = 1, c.Hkv = 1, c.d = 4;
  c.config = config_of("key_norm");
  c.config.window = 2;
  c.config.budget.tokens = 4;
  c.q.assign(8, 1.0f), c.v.assign(28, 1.0f);
  c.k = {3, 4, 0, 0, 1, 1, 1, 1, 0, 0, 9, 0, 0, -1, 0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0};
  const RankResult result = evict(c);
  ASSERT_EQ(result.kept.size(), 1u);
  EXPECT_EQ(result.kept[0], (std::vector<int64_t>{1, 3, 5, 6}));
  EXPECT_EQ(result.scores[0], (std::vector<float>{-5, -2, -9, -1, -4}));
}

// Two query heads of one KV head, keys along two axes: head 0 looks at position 1 with e^2 against 1 elsewhere, head 1
// at position 4 with e^3. Means: 4 first, then 1; earlier rows of the window look elsewhere and do not count.
TEST(Tova, SmallCaseByHand) {
  EvictionCase c;
  c.L = 8, c.Hq = 2, c.Hkv = 1, c.d = 4;
  c.config = config_of("tova");
  c.config.window = 2;
  c.config.budget.tokens = 4;
  c.k.assign(32, 0.0f), c.v.assign(32, 1.0f), c.q.assign(16, 0.0f);
  c.k[1 * 4 + 0] = c.k[4 * 4 + 1] = c.k[2 * 4 + 2] = 1.0f;
  c.q[(0 * 2 + 1) * 4 + 0] = 4.0f;                              // head 0, last row; the scale is 1/2
  c.q[(1 * 2 + 1) * 4 + 1] = 6.0f;                              // head 1, last row
  c.q[(0 * 2 + 0) * 4 + 2] = c.q[(1 * 2 + 0) * 4 + 2] = 20.0f;  // the row before looks at position 2
  const RankResult result = evict(c);
  ASSERT_EQ(result.kept.size(), 1u);
  EXPECT_EQ(result.kept[0], (std::vector<int64_t>{1, 4, 6, 7}));
  const double e2 = std::exp(2.0), e3 = std::exp(3.0);
  EXPECT_NEAR(result.scores[0][1], 0.5 * (e2 / (e2 + 7) + 1 / (e3 + 7)), 1e-6);
  EXPECT_NEAR(result.scores[0][4], 0.5 * (1 / (e2 + 7) + e3 / (e3 + 7)), 1e-6);
  EXPECT_NEAR(result.scores[0][0], 0.5 * (1 / (e2 + 7) + 1 / (e3 + 7)), 1e-6);
}

}  // namespace
}  // namespace restkv::testing
