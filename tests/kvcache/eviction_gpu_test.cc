// A layer's eviction on a GPU: against the published code, and against the CPU on random cases. Skips when there is no
// GPU.
#include <iostream>

#include "dist/base/error.h"
#include "tests/gpu_test.h"
#include "tests/kvcache/golden_case.h"
#include "tests/kvcache/random_case.h"

namespace restkv::testing {
namespace {

class EvictionGpu : public testing::GpuTest {
 protected:
  void compare(const EvictionCase& c, DType dtype, double tolerance);

  std::unique_ptr<Communicator> sequence = make_self_communicator("sequence"),
                                tensor = make_self_communicator("tensor");
  int64_t heads = 0, drifted = 0;  // query heads whose width or shift differs
};

TEST_F(EvictionGpu, AgreesWithThePublishedCode) {
  const auto paths = golden_paths(RESTKV_TEST_DATA "/eviction");
  ASSERT_GE(paths.size(), 12u);
  for (const auto& path : paths) {
    const Golden golden = read_case(path);
    expect_golden(golden, evict_case(*gpu, golden.input, *sequence, *tensor), *sequence, kScoresGpuF32);
  }
}

// Positions that only one side keeps have a score next to the cut.
void compare_kept(const EvictionCase& c, const RankResult& want, const RankResult& got, size_t row,
                  const std::vector<float>& scores, double tolerance) {
  ASSERT_EQ(got.kept[row].size(), want.kept[row].size()) << c.name;
  EXPECT_TRUE(std::is_sorted(got.kept[row].begin(), got.kept[row].end())) << c.name;
  double cut = INFINITY;
  for (int64_t p : want.kept[row])
    if (p < c.P()) cut = std::min(cut, static_cast<double>(scores[p]));
  std::vector<int64_t> different;
  std::set_symmetric_difference(want.kept[row].begin(), want.kept[row].end(), got.kept[row].begin(),
                                got.kept[row].end(), std::back_inserter(different));
  for (int64_t p : different) {
    ASSERT_LT(p, c.P()) << c.name << ": the window is kept";
    EXPECT_LE(std::abs(static_cast<double>(scores[p]) - cut), tolerance) << c.name << " row " << row << " at " << p;
  }
}

void EvictionGpu::compare(const EvictionCase& c, DType dtype, double relative) {
  EvictionCase rounded = c;  // what the GPU gets to see
  if (dtype == DType::bf16)
    for (auto* values : {&rounded.q, &rounded.k, &rounded.v, &rounded.wo, &rounded.q_all})
      for (float& x : *values) x = to_float(to_bf16(x));
  const RankResult want = evict_case(rounded, *sequence, *tensor), got = evict_case(*gpu, c, *sequence, *tensor, dtype);
  ASSERT_EQ(got.head, want.head);
  ASSERT_EQ(got.kernel.size(), want.kernel.size());
  bool same_windows = true;
  for (size_t h = 0; h < want.kernel.size(); ++h) {
    const bool same = got.kernel[h] == want.kernel[h] && got.shift[h] == want.shift[h];
    ++heads;
    drifted += !same;
    same_windows = same_windows && same;
  }
  // A logit that rounds to the other side of a cut may move a window by one position: no comparison of scores then.
  if (!same_windows) return;
  ASSERT_EQ(got.scores.size(), want.scores.size());
  const size_t group = want.kept.size() / want.scores.size();  // query heads that share a row of scores
  for (size_t row = 0; row < want.scores.size(); ++row) {
    const std::vector<float>& scores = want.scores[row];
    double largest = 0.0, worst = 0.0;
    for (float x : scores) largest = std::max(largest, std::abs(static_cast<double>(x)));
    for (size_t i = 0; i < scores.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(got.scores[row][i]) - scores[i]));
    EXPECT_LE(worst, relative * largest) << c.name << " row " << row;
    for (size_t h = row * group; h < (row + 1) * group; ++h) compare_kept(c, want, got, h, scores, relative * largest);
  }
}

double tolerance_of(const CaseShape& shape, double usual) {
  return shape.content == Content::spike ? std::max(usual, kScoresNearOneF32) : usual;
}

TEST_F(EvictionGpu, AgreesWithTheCpu) {
  uint32_t seed = 1;
  for (const auto& [name, shape] : case_shapes())
    for (const CacheConfig& config : case_configs())
      compare(random_case(name + ", " + config.policy, shape, config, seed++), DType::f32,
              tolerance_of(shape, kScoresGpuF32));
  for (const auto& [name, shape] : case_shapes())
    for (const CacheConfig& config : h2o_configs())
      if (shape.L <= 700)
        compare(random_case(name + ", h2o", shape, config, seed++), DType::f32, tolerance_of(shape, kScoresGpuF32));
  for (const auto& [name, shape] : case_shapes())
    for (const CacheConfig& config : lacache_configs())
      if (const EvictionCase c = random_case(name + ", lacache", shape, config, seed++); ladder_fits(c))
        compare(c, DType::f32, 0.0);
  std::cout << drifted << " of " << heads << " windows differ\n";
  EXPECT_LE(drifted * 50, heads);
}

TEST_F(EvictionGpu, AgreesWithTheCpuOnBf16) {
  const std::vector<std::pair<std::string, CaseShape>> shapes = {
      {"d 64", {2500, 32, 300, 9, 3, 64}},
      {"d 128", {3001, 32, 400, 8, 2, 128}},
      {"d 256", {1500, 16, 100, 4, 4, 256}},
      {"group of 8", {2100, 32, 200, 16, 2, 64}},
      {"odd head", {1111, 16, 200, 6, 3, 48}},
      {"long", {20000, 32, 1024, 8, 2, 128}},
      {"ties", {2000, 16, 100, 4, 2, 64, 0, Content::constant}},
      {"periodic", {2000, 16, 100, 4, 2, 128, 0, Content::periodic}},
  };
  uint32_t seed = 100;
  for (const auto& [name, shape] : shapes)
    for (const CacheConfig& config : case_configs()) {
      if (shape.L > 10000 && (config.mode == ScoreMode::before || config.policy == "random")) continue;
      // Every window output is the one value that there is: their distances are rounding alone.
      if (shape.content == Content::constant && config.mode == ScoreMode::before) continue;
      compare(random_case(name + ", " + config.policy, shape, config, seed++), DType::bf16,
              tolerance_of(shape, kScoresGpuBf16));
    }
  std::cout << drifted << " of " << heads << " windows differ\n";
  EXPECT_LE(drifted * 50, heads);
}

// Layers with a soft-cap, a scale of their own, a sliding window.
TEST_F(EvictionGpu, WindowsAndSoftCapsAgreeWithTheCpu) {
  const AttentionForm forms[] = {{0.0, 0.0, 700}, {0.0, 2.0, 0}, {0.02, 3.0, 300}};
  uint32_t seed = 500;
  for (const AttentionForm& form : forms)
    for (const CacheConfig& config : case_configs()) {
      if (deals_to_heads(config.allocation)) continue;
      EvictionCase c = random_case(config.policy, {2500, 32, 300, 8, 2, 128}, config, seed++);
      c.form = form;
      compare(c, DType::bf16, kScoresGpuBf16);
      compare(c, DType::f32, kScoresGpuF32);
    }
  std::cout << drifted << " of " << heads << " windows differ\n";
  EXPECT_LE(drifted * 50, heads);
}

// The tensor-core kernel of the column sums: head sizes, groups, tiles that are cut short, several tiles of keys.
TEST_F(EvictionGpu, H2oAgreesWithTheCpuOnBf16) {
  const std::vector<std::pair<std::string, CaseShape>> shapes = {
      {"d 64", {1000, 100, 200, 9, 3, 64}},
      {"d 128", {1301, 64, 300, 8, 2, 128}},
      {"d 256", {600, 32, 100, 4, 4, 256}},
      {"group of 8", {900, 32, 200, 16, 2, 64}},
      {"odd head", {500, 16, 100, 6, 3, 48}},
      {"one tile", {60, 4, 20, 4, 2, 128}},
      {"periodic", {700, 16, 100, 4, 2, 128, 0, Content::periodic}},
  };
  uint32_t seed = 300;
  for (const auto& [name, shape] : shapes)
    for (const CacheConfig& config : h2o_configs())
      compare(random_case(name + ", h2o", shape, config, seed++), DType::bf16, kScoresGpuBf16);
}

}  // namespace
}  // namespace restkv::testing
