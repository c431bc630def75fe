// The closed form of the bytes exchanged against what the communicators counted.
#include "kvcache/exchange_bytes.h"

#include "tests/kvcache/random_case.h"
#include "tests/mpi_world.h"

namespace restkv::testing {
namespace {

TEST(ExchangeBytes, EqualWhatTheCommunicatorsCount) {
  using enum Granularity;
  std::vector<CacheConfig> configs(15);
  configs[1].mode = ScoreMode::before;
  configs[2].pooling = Pooling::none;
  configs[3].granularity = query_head;
  configs[4].policy = configs[5].policy = "snapkv";
  configs[4].pooling = Pooling::average;  // maxima of neighbours tie
  configs[5].pooling = Pooling::none;
  configs[6].policy = "random";
  configs[7].policy = "tova";
  configs[8].policy = "streaming_llm";
  configs[9].reconstruction = false;
  configs[10].policy = "key_norm";
  configs[11].allocation = Allocation::ada;
  configs[12].policy = "key_norm";
  configs[12].allocation = Allocation::ada_pyramid;
  configs[12].granularity = query_head;
  configs[13].policy = "h2o";
  configs[14].policy = "lacache";
  int64_t total = 0, split = 0;
  for (auto [sequence_size, tensor_size] : all_layouts()) {
    ProcessGrid grid = make_grid(sequence_size, tensor_size);
    for (const CacheConfig& config : configs)
      for (const CaseShape& shape : {CaseShape{500, 8, 90, 6, 3, 16, 32}, CaseShape{130, 12, 40, 4, 1, 32, 32}}) {
        EvictionCase c = random_case(config.policy, shape, config, 3);
        const HeadLayout heads{c.Hq, c.Hkv, c.d, split_heads(c.Hq, c.Hkv, tensor_size, grid.tensor_rank())};
        const ExchangeBytes expected =
            eviction_exchange_bytes(c.config, heads, c.partition(sequence_size), grid.sequence_rank(), tensor_size);
        const int64_t sequence = grid.sequence().stats().bytes_sent, tensor = grid.tensor().stats().bytes_sent;
        RankResult result = evict_case(c, grid.sequence(), grid.tensor());
        ASSERT_EQ(result.tied_rows, 0) << "choose another seed: the closed form is that without ties";
        EXPECT_EQ(grid.sequence().stats().bytes_sent - sequence, expected.sequence) << c.name;
        EXPECT_EQ(grid.tensor().stats().bytes_sent - tensor, expected.tensor) << c.name;
        total += expected.sequence + expected.tensor;
        split += expected.tensor > 0;
      }
  }
  if (mpi_runtime().size() == 1) {
    EXPECT_EQ(total, 0);
  } else {
    EXPECT_GT(total, 0);
    EXPECT_GT(split, 0);
  }
}

TEST(ExchangeBytes, FullCacheExchangesNothing) {
  CacheConfig config;
  config.policy = "full";
  const ExchangeBytes bytes =
      eviction_exchange_bytes(config, {4, 2, 8, {{0, 4}, {0, 2}}}, SequencePartition(4096, 4), 1, 1);
  EXPECT_EQ(bytes.sequence + bytes.tensor, 0);
}

// The figures that the design promises for Llama-3.1-8B at 128K tokens: 1 MB of partials, 2 MB of outputs; per rank of
// 2, a half of each. Of the scores, four strips of the pooling's half width per row.
TEST(ExchangeBytes, AtTheDesignedScale) {
  CacheConfig config;
  config.pooling = Pooling::average;
  const SequencePartition partition(131072, 2);
  const HeadLayout heads{32, 8, 128, {{0, 32}, {0, 8}}};
  const int64_t blocks = 64, reach = 2;
  const int64_t expected = blocks * 32 * 32 * 2 * 4 + blocks * 32 * 128 * 4 + 32 * 4 * reach * 4 + 8 * 1536 * 4;
  EXPECT_EQ(eviction_exchange_bytes(config, heads, partition, 1, 1).sequence, expected);
}

}  // namespace
}  // namespace restkv::testing
