// Eviction while decoding on ranks that are threads and share one GPU, against one rank.
// Skips when there is no GPU.
#include <cstdlib>

#include "tests/dist/loopback_communicator.h"
#include "tests/gpu_test.h"
#include "tests/model/decode_evict_ranks.h"

namespace restkv::testing {
namespace {

// A kernel that waits for another rank must not keep that rank's thread from loading its kernels.
const bool kEager = setenv("CUDA_MODULE_LOADING", "EAGER", 1) == 0;

struct EvictLayout {
  int sequence, tensor;
  int64_t Hq, Hkv, d;
};

class DecodeEvictLoopback : public GpuTest, public ::testing::WithParamInterface<EvictLayout> {};

TEST_P(DecodeEvictLoopback, KeepsWhatOneRankKeeps) {
  ASSERT_TRUE(kEager);
  const EvictLayout c = GetParam();
  gpu.reset();
  run_loopback(
      c.sequence * c.tensor, Device::gpu,
      [&](LoopbackRank& rank) {
        ProcessGrid grid = loopback_grid(rank, c.sequence, c.tensor);
        ModelConfig config = small_config(c.Hq, c.Hkv, c.d);
        config.intermediate = 352;  // few blocks: ranks that share a GPU wait for each other with kernels on it
        expect_eviction_of_one_rank(rank.ctx, grid, config, {.graphs = false}, decode_evict_caches());
      },
      400.0);
}

INSTANTIATE_TEST_SUITE_P(Layouts, DecodeEvictLoopback,
                         ::testing::Values(EvictLayout{2, 1, 8, 4, 64}, EvictLayout{1, 2, 8, 4, 64},
                                           EvictLayout{2, 2, 8, 4, 64}, EvictLayout{1, 4, 8, 4, 64},
                                           EvictLayout{3, 1, 6, 3, 64}));

// The rows of a head on several ranks. Merges are collectives here: no kernel waits for another rank.
class DecodeEvictSpread : public GpuTest, public ::testing::WithParamInterface<EvictLayout> {};

TEST_P(DecodeEvictSpread, KeepsWhatOneRankKeeps) {
  ASSERT_TRUE(kEager);
  const EvictLayout c = GetParam();
  gpu.reset();
  run_loopback(
      c.sequence * c.tensor, Device::gpu,
      [&](LoopbackRank& rank) {
        ProcessGrid grid = loopback_grid(rank, c.sequence, c.tensor);
        ModelConfig config = small_config(c.Hq, c.Hkv, c.d);
        config.intermediate = 352;
        expect_eviction_of_one_rank(rank.ctx, grid, config,
                                    {.mode = DecodeMode::sequence, .graphs = false, .peer_memory = false},
                                    decode_evict_caches());
      },
      400.0);
}

INSTANTIATE_TEST_SUITE_P(Layouts, DecodeEvictSpread,
                         ::testing::Values(EvictLayout{2, 1, 8, 4, 64}, EvictLayout{3, 1, 6, 3, 64},
                                           EvictLayout{4, 1, 8, 4, 64}, EvictLayout{2, 2, 8, 4, 64}));

// One KV head on two ranks: by shares of one rank's heads in mode tensor, by tensor ranks with a part of the group each
// in both modes.
class DecodeEvictShared : public GpuTest {
 protected:
  static std::vector<CacheConfig> caches() {
    std::vector<CacheConfig> all;
    for (const char* policy : {"streaming_llm", "lacache", "tova", "h2o"})
      all.push_back(decode_evict_cache(policy, 80, 1));
    for (const char* policy : {"snapkv", "restkv"}) all.push_back(decode_evict_cache(policy, 80, 8));
    all.push_back(decode_evict_cache("h2o", 60, 2));
    all.back().allocation = Allocation::ada;
    return all;
  }
  void run(int sequence, int tensor, const ModelConfig& shape, const RanksForm& form) {
    gpu.reset();
    run_loopback(
        sequence * tensor, Device::gpu,
        [&](LoopbackRank& rank) {
          ProcessGrid grid = loopback_grid(rank, sequence, tensor);
          ModelConfig config = shape;
          config.intermediate = 352;
          expect_eviction_of_one_rank(rank.ctx, grid, config, form, caches());
        },
        400.0);
  }
};

TEST_F(DecodeEvictShared, SharesOfHeads) {
  run(4, 1, small_config(8, 2, 64), {.graphs = false, .peer_memory = false});
  // Three shares of two KV heads with four query heads each: one of them has parts of both.
  run(3, 1, small_config(8, 2, 64), {.graphs = false, .peer_memory = false});
}

TEST_F(DecodeEvictShared, TensorRanksWithPartsOfGroups) {
  run(1, 4, small_config(8, 2, 64), {.graphs = false, .peer_memory = false});
  run(2, 2, small_config(8, 1, 64), {.graphs = false, .peer_memory = false});
  run(2, 2, small_config(8, 1, 64), {.mode = DecodeMode::sequence, .graphs = false, .peer_memory = false});
}

}  // namespace
}  // namespace restkv::testing
