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

// One KV head on two ranks: rules that read no queries, and tova's sum over all heads; the others say what they need.
class DecodeEvictShared : public GpuTest {};

TEST_F(DecodeEvictShared, KvHeadsOfSeveralRanks) {
  gpu.reset();
  run_loopback(
      4, Device::gpu,
      [&](LoopbackRank& rank) {
        ProcessGrid grid = loopback_grid(rank, 4, 1), alone(make_self_communicator(), 1, 1);
        ModelConfig config = small_config(8, 2, 64);
        config.intermediate = 352;
        for (const char* policy : {"streaming_llm", "lacache", "tova"}) {
          const CacheConfig cache = decode_evict_cache(policy, 80, 1);
          const EvictedText want = run_evicting(rank.ctx, alone, config, cache, 300, 40, {.graphs = false}),
                            got = run_evicting(rank.ctx, grid, config, cache, 300, 40, {.graphs = false});
          EXPECT_GE(jaccard(got.kept, want.kept), policy == std::string("tova") ? 0.5 : 1.0) << policy;
        }
        EXPECT_THROW(make_evicting_model(rank.ctx, grid, config, decode_evict_cache("h2o", 80, 1)), InputError);
      },
      400.0);
}

}  // namespace
}  // namespace restkv::testing
