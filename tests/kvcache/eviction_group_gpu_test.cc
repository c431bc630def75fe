// Layers evicted by several GPU ranks together, as threads on one GPU: every rank's part of the decision has the bits
// of the decision of one GPU rank, and what was sent is what the closed formula says. Skips when there is no GPU.
#include <iostream>

#include "dist/base/error.h"
#include "kvcache/exchange_bytes.h"
#include "tests/dist/loopback_communicator.h"
#include "tests/gpu_test.h"
#include "tests/kvcache/golden_case.h"
#include "tests/kvcache/layout_result.h"
#include "tests/kvcache/random_case.h"

namespace restkv::testing {
namespace {

struct Layout {
  int sequence, tensor;
};
constexpr Layout kLayouts[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {3, 1}, {4, 1}, {1, 4}};

class EvictionGroupGpu : public testing::GpuTest {
 protected:
  // All cases on all layouts, each with the decision of one rank.
  void compare(const std::vector<EvictionCase>& cases, DType dtype);
};

void EvictionGroupGpu::compare(const std::vector<EvictionCase>& cases, DType dtype) {
  auto sequence = make_self_communicator("sequence"), tensor = make_self_communicator("tensor");
  std::vector<RankResult> alone;
  for (const EvictionCase& c : cases) alone.push_back(evict_case(*gpu, c, *sequence, *tensor, dtype));
  for (const Layout& layout : kLayouts) {
    run_loopback(layout.sequence * layout.tensor, Device::gpu, [&](LoopbackRank& rank) {
      ProcessGrid grid = loopback_grid(rank, layout.sequence, layout.tensor);
      for (size_t i = 0; i < cases.size(); ++i) {
        const EvictionCase& c = cases[i];
        SCOPED_TRACE(fmt::format("{}: {} x {}, rank {}", c.name, layout.sequence, layout.tensor, grid.rank()));
        const int64_t in_sequence = grid.sequence().stats().bytes_sent, in_tensor = grid.tensor().stats().bytes_sent;
        const RankResult part = evict_case(rank.ctx, c, grid.sequence(), grid.tensor(), dtype);
        expect_part_of(c, alone[i], part, grid.sequence_rank(), layout.sequence);
        const HeadLayout heads{c.Hq, c.Hkv, c.d, split_heads(c.Hq, c.Hkv, layout.tensor, grid.tensor_rank())};
        const ExchangeBytes bytes =
            eviction_exchange_bytes(c.config, heads, c.partition(layout.sequence), grid.sequence_rank(), layout.tensor,
                                    {Device::gpu, c.layer, c.layers});
        EXPECT_EQ(grid.sequence().stats().bytes_sent - in_sequence, bytes.sequence);
        EXPECT_EQ(grid.tensor().stats().bytes_sent - in_tensor, bytes.tensor);
      }
    });
    std::cout << cases.size() << " cases on " << layout.sequence << " x " << layout.tensor << "\n";
    if (HasFailure()) break;  // thousands of lines would say no more
  }
}

TEST_F(EvictionGroupGpu, SameBitsOnEveryGrid) {
  uint32_t seed = 1;
  std::vector<EvictionCase> cases;
  for (const auto& [name, shape] : case_shapes())
    for (const CacheConfig& config : case_configs())
      cases.push_back(random_case(name + ", " + config.policy, shape, config, seed++));
  compare(cases, DType::f32);
}

TEST_F(EvictionGroupGpu, SameBitsOnEveryGridInBf16) {
  const std::vector<std::pair<std::string, CaseShape>> shapes = {
      {"d 64", {2500, 32, 300, 9, 3, 64}},
      {"d 128", {3001, 32, 400, 8, 2, 128}},
      {"d 256", {1500, 16, 100, 4, 4, 256}},
      {"group of 8", {2100, 32, 200, 16, 2, 64}},
      {"ties", {2000, 16, 100, 4, 2, 64, 0, Content::constant}},
      {"periodic", {2000, 16, 100, 4, 2, 128, 0, Content::periodic}},
  };
  uint32_t seed = 100;
  std::vector<EvictionCase> cases;
  for (const auto& [name, shape] : shapes)
    for (const CacheConfig& config : case_configs())
      cases.push_back(random_case(name + ", " + config.policy, shape, config, seed++));
  compare(cases, DType::bf16);
}

// Shards long enough for lists of candidates, with budgets on both sides of what lists take; masses of ties among them.
TEST_F(EvictionGroupGpu, SameBitsOnLongPrompts) {
  const std::vector<std::pair<std::string, CaseShape>> shapes = {
      {"long", {40001, 32, 1024, 8, 2, 128}},
      {"large budget", {30000, 16, 6000, 4, 2, 64}},
      {"half of all", {20000, 16, 10000, 4, 2, 64}},
      {"long ties", {20000, 16, 1024, 4, 2, 64, 0, Content::constant}},
      {"long periodic ties", {20000, 16, 1500, 4, 2, 64, 0, Content::periodic}},
      {"long zeros", {20000, 16, 1500, 4, 2, 64, 0, Content::underflow}},
  };
  using enum Granularity;
  std::vector<CacheConfig> configs = {restkv_config(ScoreMode::after, Pooling::adaptive, true, kv_head),
                                      restkv_config(ScoreMode::before, Pooling::adaptive, false, query_head),
                                      restkv_config(ScoreMode::after, Pooling::max, false, kv_head)};
  configs[1].temporal = TemporalSmoothing::mean;
  configs.emplace_back();
  configs.back().policy = "key_norm";
  uint32_t seed = 200;
  for (const auto& [name, shape] : shapes) {
    std::vector<EvictionCase> cases;
    for (const CacheConfig& config : configs)
      cases.push_back(random_case(name + ", " + config.policy, shape, config, seed++));
    compare(cases, DType::bf16);
  }
}

TEST_F(EvictionGroupGpu, AgreesWithThePublishedCode) {
  const auto paths = golden_paths(RESTKV_TEST_DATA "/eviction");
  ASSERT_GE(paths.size(), 12u);
  std::vector<Golden> all;
  for (const auto& path : paths) all.push_back(read_case(path));
  for (const Layout& layout : kLayouts)
    run_loopback(layout.sequence * layout.tensor, Device::gpu, [&](LoopbackRank& rank) {
      ProcessGrid grid = loopback_grid(rank, layout.sequence, layout.tensor);
      auto host = rank.control->split(grid.tensor_rank(), grid.sequence_rank(), "sequence on the host");
      for (const Golden& golden : all) {
        if (golden.input.Hq % layout.tensor != 0) continue;
        SCOPED_TRACE(fmt::format("{} x {}, rank {}", layout.sequence, layout.tensor, grid.rank()));
        expect_golden(golden, evict_case(rank.ctx, golden.input, grid.sequence(), grid.tensor()), *host, kScoresGpuF32);
      }
    });
}

}  // namespace
}  // namespace restkv::testing
