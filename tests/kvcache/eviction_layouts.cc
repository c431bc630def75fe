// The promise of kvcache/: the same Q, K and V give bit-identical scores, kept sets, kernels and shifts on every
// sequence x tensor layout and number of threads. Every rank compares its own part with the result of one rank.
#include <cstring>
#include <iostream>
#include <set>

#include "tests/kvcache/random_case.h"
#include "tests/mpi_world.h"

namespace restkv::testing {
namespace {

RankResult alone(const EvictionCase& c, int threads = 1) {
  auto sequence = make_self_communicator("sequence"), tensor = make_self_communicator("tensor");
  return evict_case(c, *sequence, *tensor, threads);
}

// Rows of trace scores stand for KV heads when the policy scores those alone.
size_t score_row(const EvictionCase& c, const RankResult& result, int64_t head) {
  if (c.config.policy == "random" && c.config.granularity == Granularity::query_head)
    return static_cast<size_t>(head / (c.Hq / c.Hkv) - result.q_heads.begin / (c.Hq / c.Hkv));
  return static_cast<size_t>(head - result.head.front());
}

void expect_part_of(const EvictionCase& c, const RankResult& whole, const RankResult& part, int rank, int ranks) {
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

CacheConfig restkv_config(ScoreMode mode, Pooling pooling, bool use_wo, Granularity granularity) {
  CacheConfig config;
  config.mode = mode;
  config.pooling = pooling;
  config.use_wo = use_wo;
  config.granularity = granularity;
  config.beta = 37.0;
  return config;
}

std::vector<CacheConfig> configs() {
  using enum Granularity;
  std::vector<CacheConfig> all = {
      restkv_config(ScoreMode::after, Pooling::adaptive, true, kv_head),
      restkv_config(ScoreMode::before, Pooling::adaptive, true, query_head),
      restkv_config(ScoreMode::after, Pooling::none, false, query_head),
      restkv_config(ScoreMode::before, Pooling::max, false, kv_head),
      restkv_config(ScoreMode::after, Pooling::average, true, query_head),
  };
  all[2].tau = 0.5;
  all[3].normalize = true;
  all[3].temporal = TemporalSmoothing::mean;
  for (Granularity granularity : {kv_head, query_head}) {
    CacheConfig random, snapkv;
    random.policy = "random";
    random.seed = 7;
    snapkv.policy = "snapkv";
    snapkv.pooling = granularity == kv_head ? Pooling::max : Pooling::average;
    random.granularity = snapkv.granularity = granularity;
    all.push_back(random);
    all.push_back(snapkv);
  }
  return all;
}

// L, W, B, Hq, Hkv, d, block size, content
std::vector<std::pair<std::string, CaseShape>> shapes() {
  return {
      {"uneven length", {1111, 16, 200, 9, 3, 16}},
      {"wide heads", {700, 8, 90, 8, 2, 40, 64}},
      {"shared KV head", {517, 16, 60, 4, 1, 24, 32}},
      {"one KV head per query head", {450, 8, 64, 4, 4, 32, 32}},
      {"one block: most ranks own nothing", {90, 16, 40, 4, 2, 16}},
      {"fewer blocks than chunks", {300, 16, 64, 6, 3, 16}},
      {"window over several shards", {640, 300, 340, 4, 2, 16, 32}},
      {"ranks without a past position", {256, 200, 230, 4, 2, 16, 32}},
      {"budget larger than a shard", {600, 16, 500, 4, 2, 16, 32}},
      {"all but one kept", {333, 16, 332, 4, 2, 16, 32}},
      {"one past token kept", {333, 16, 17, 4, 2, 16, 32}},
      {"all scores tie", {600, 16, 100, 4, 2, 16, 32, Content::constant}},
      {"periodic ties", {601, 16, 100, 6, 3, 16, 32, Content::periodic}},
      {"attention near one", {600, 16, 100, 4, 2, 16, 32, Content::spike}},
      {"zero weights tie", {600, 16, 300, 4, 2, 16, 32, Content::underflow}},
      {"logits of minus infinity", {400, 16, 300, 4, 2, 16, 32, Content::minus_inf}},
  };
}

TEST(EvictionLayouts, SameBitsOnEveryGrid) {
  int compared = 0, tied = 0;
  uint32_t seed = 1;
  std::vector<EvictionCase> cases;
  for (const auto& [name, shape] : shapes())
    for (const CacheConfig& config : configs())
      cases.push_back(random_case(name + ", " + config.policy, shape, config, seed++));
  std::vector<RankResult> expected;
  for (const EvictionCase& c : cases) expected.push_back(alone(c));
  for (auto [sequence_size, tensor_size] : all_layouts()) {
    ProcessGrid grid = make_grid(sequence_size, tensor_size);
    for (size_t i = 0; i < cases.size(); ++i) {
      RankResult part = evict_case(cases[i], grid.sequence(), grid.tensor());
      expect_part_of(cases[i], expected[i], part, grid.sequence_rank(), sequence_size);
      ++compared;
      tied += part.tied_rows > 0;
    }
  }
  EXPECT_GE(compared, 144);
  EXPECT_GT(tied, 10);  // the tie passes did run
  if (mpi_runtime().rank() == 0) std::cout << compared << " cases x layouts, " << tied << " with ties at a cut\n";
}

TEST(EvictionLayouts, SameBitsWithTwoThreads) {
  uint32_t seed = 1000;
  for (const auto& [name, shape] : shapes())
    for (const CacheConfig& config : configs()) {
      // A sample: waiting threads of many ranks on few cores crawl.
      if (seed++ % (mpi_runtime().size() > 1 ? 23 : 5) != 0) continue;
      EvictionCase c = random_case(name + ", " + config.policy, shape, config, seed);
      expect_part_of(c, alone(c, 1), alone(c, 2), 0, 1);
    }
}

TEST(EvictionLayouts, KeepsTheBudgetAndTheWindow) {
  if (mpi_runtime().size() > 1) GTEST_SKIP() << "one rank shows it";
  for (const auto& [name, shape] : shapes())
    for (const CacheConfig& config : configs()) {
      EvictionCase c = random_case(name, shape, config, 5);
      RankResult result = alone(c);
      ASSERT_EQ(result.kept.size(), static_cast<size_t>(config.granularity == Granularity::kv_head ? c.Hkv : c.Hq));
      for (const auto& scores : result.scores)
        for (float score : scores) ASSERT_TRUE(std::isfinite(score)) << name << ", " << config.policy;
      for (const auto& kept : result.kept) {
        EXPECT_EQ(static_cast<int64_t>(kept.size()), shape.B) << name;
        EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end())) << name;
        EXPECT_EQ(std::set<int64_t>(kept.begin(), kept.end()).size(), kept.size()) << name;
        for (int64_t w = 0; w < shape.W; ++w)
          EXPECT_EQ(kept[kept.size() - static_cast<size_t>(shape.W - w)], c.P() + w);
      }
    }
}

}  // namespace
}  // namespace restkv::testing
