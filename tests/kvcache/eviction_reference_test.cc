// The eviction against the formulas written out in double precision, with nothing shared, blocked or factored.
#include <cmath>

#include "tests/kvcache/eviction_formulas.h"
#include "tests/kvcache/random_case.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

std::vector<std::pair<std::string, CacheConfig>> configs() {
  std::vector<std::pair<std::string, CacheConfig>> all;
  for (ScoreMode mode : {ScoreMode::after, ScoreMode::before})
    for (Pooling pooling : {Pooling::adaptive, Pooling::average, Pooling::max, Pooling::none})
      for (bool use_wo : {true, false}) {
        CacheConfig config;
        config.mode = mode;
        config.pooling = pooling;
        config.use_wo = use_wo;
        config.beta = 11.0;
        config.alpha = use_wo ? 0.3 : 0.6;
        config.normalize = mode == ScoreMode::before && use_wo;
        if (mode == ScoreMode::after && !use_wo) config.tau = 1.5;
        if (pooling == Pooling::max) config.temporal = TemporalSmoothing::mean;
        if (pooling == Pooling::average) config.kernel_size = 9;
        config.granularity = all.size() % 3 == 0 ? Granularity::query_head : Granularity::kv_head;
        all.emplace_back("restkv " + std::to_string(all.size()), config);
      }
  for (TemporalSmoothing temporal :
       {TemporalSmoothing::inverse_ema, TemporalSmoothing::last, TemporalSmoothing::mean, TemporalSmoothing::ema})
    for (bool reconstruction : {true, false})
      for (Pooling pooling : {Pooling::adaptive, Pooling::none}) {
        CacheConfig config;
        config.temporal = temporal;
        config.reconstruction = reconstruction;
        config.pooling = pooling;
        config.beta = 11.0;
        config.granularity = all.size() % 3 == 0 ? Granularity::query_head : Granularity::kv_head;
        all.emplace_back("ablation " + std::to_string(all.size()), config);
      }
  CacheConfig snapkv;
  snapkv.policy = "snapkv";
  snapkv.pooling = Pooling::average;
  all.emplace_back("snapkv", snapkv);
  return all;
}

// floor: scores below it are zero in float32 (nothing of 1 - a is left).
void compare(const EvictionCase& c, double relative, double floor = 1e-37) {
  const Reference expected = Formulas(c).run();
  auto sequence = make_self_communicator("sequence"), tensor = make_self_communicator("tensor");
  const RankResult result = evict_case(c, *sequence, *tensor);
  ASSERT_EQ(result.kernel, expected.kernel) << c.name;
  ASSERT_EQ(result.shift, expected.shift) << c.name;
  ASSERT_EQ(result.scores.size(), expected.scores.size());
  for (size_t row = 0; row < expected.scores.size(); ++row) {
    const Vector& scores = expected.scores[row];
    const double tolerance = std::max(floor, relative * *std::max_element(scores.begin(), scores.end()));
    for (int64_t i = 0; i < c.P(); ++i)
      ASSERT_NEAR(result.scores[row][i], scores[i], tolerance) << c.name << " at " << i;
    double cut = INFINITY;
    for (int64_t p : expected.kept[row]) cut = std::min(cut, scores[p]);
    std::vector<int64_t> past, different;
    for (int64_t p : result.kept[row])
      if (p < c.P()) past.push_back(p);
    ASSERT_EQ(past.size(), expected.kept[row].size());
    std::set_symmetric_difference(past.begin(), past.end(), expected.kept[row].begin(), expected.kept[row].end(),
                                  std::back_inserter(different));
    for (int64_t p : different) EXPECT_NEAR(scores[p], cut, tolerance) << c.name << " row " << row << " at " << p;
  }
}

TEST(EvictionReference, RandomCases) {
  uint32_t seed = 50;
  int wide = 0;
  for (const auto& [name, config] : configs())
    for (const CaseShape& shape : {CaseShape{401, 16, 80, 6, 3, 24, 32}, CaseShape{260, 9, 50, 2, 2, 16}}) {
      EvictionCase c = random_case(name, shape, config, seed++);
      compare(c, kScoresF32);
      if (config.pooling == Pooling::adaptive)
        for (int64_t kernel : Formulas(c).run().kernel) wide += kernel > config.kernel_size;
    }
  EXPECT_GT(wide, 5);  // the adaptive window did adapt
}

// Gemma's heads.
TEST(EvictionReference, MultiQueryHeadsOf256) {
  uint32_t seed = 90;
  for (Granularity granularity : {Granularity::kv_head, Granularity::query_head}) {
    CacheConfig config;
    config.beta = 11.0;
    config.granularity = granularity;
    compare(random_case("multi-query", CaseShape{300, 16, 60, 8, 1, 256, 512}, config, seed++), kScoresF32);
  }
}

// Mistral's and Gemma 2's attention: rows beyond a query's window, scores of another size, and both.
TEST(EvictionReference, WindowsAndSoftCaps) {
  const AttentionForm forms[] = {{0.0, 0.0, 150}, {0.0, 2.0, 0}, {0.4, 0.0, 0}, {0.1, 3.0, 90}, {0.0, 0.0, 400}};
  uint32_t seed = 130;
  for (const auto& [name, config] : configs())
    for (const AttentionForm& form : forms) {
      EvictionCase c = random_case(name, CaseShape{401, 16, 80, 6, 3, 24, 32}, config, seed++);
      c.form = form;
      compare(c, kScoresF32);
    }
}

TEST(EvictionReference, AttentionNearOneAndVanishing) {
  double largest = 0.0;
  for (const auto& [name, config] : configs())
    for (Content content : {Content::spike, Content::underflow}) {
      EvictionCase c = random_case(name, {300, 8, 60, 4, 2, 16, 32, content}, config, 9);
      if (content == Content::spike)
        for (const Vector& row : Formulas(c).attention(0)) largest = std::max(largest, row[c.P() / 3]);
      const bool per_row = config.policy == "restkv" && config.reconstruction &&
                           (config.mode == ScoreMode::before || config.temporal == TemporalSmoothing::last);
      compare(c, per_row ? kScoresNearOneF32 : kScoresF32, per_row ? 1e-8 : 1e-37);
    }
  EXPECT_GT(largest, 1.0 - 1e-6);  // the clamp of 1 - a did bite
}

}  // namespace
}  // namespace restkv::testing
