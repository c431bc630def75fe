// Eviction while decoding on as many GPUs as mpirun started ranks, in both decode layouts, inside graphs, against one
// GPU. Skips where there are fewer GPUs.
#include "tests/model/decode_evict_ranks.h"
#include "tests/model/gpu_ranks_test.h"

namespace restkv::testing {
namespace {

class DecodeEvictNccl : public GpuRanksTest {
 protected:
  // Three ranks divide six heads, not eight.
  static ModelConfig config_for(int64_t d = 64) {
    return mpi_runtime().size() == 3 ? small_config(6, 3, d) : small_config(8, 4, d);
  }
  static RanksForm form_of(DecodeMode mode) { return {.mode = mode}; }
};

TEST_F(DecodeEvictNccl, KeepsWhatOneRankKeeps) {
  const ModelConfig config = config_for();
  for (auto& [layout, grid] : grids)
    if (layout_allowed(config, layout.second))
      expect_eviction_of_one_rank(*ctx, *grid, config, form_of(DecodeMode::tensor), decode_evict_caches());
}

// The rows of a head stay on the ranks where they lay.
TEST_F(DecodeEvictNccl, SpreadRowsKeepWhatOneRankKeeps) {
  const ModelConfig config = config_for();
  for (auto& [layout, grid] : grids)
    if (layout_allowed(config, layout.second) && layout.first > 1)
      expect_eviction_of_one_rank(*ctx, *grid, config, form_of(DecodeMode::sequence), decode_evict_caches());
}

// More ranks than KV heads: every step gathers the queries of whole groups.
TEST_F(DecodeEvictNccl, SharedKvHeadsKeepWhatOneRankKeeps) {
  std::vector<CacheConfig> caches;
  for (const char* policy : {"lacache", "tova", "h2o"}) caches.push_back(decode_evict_cache(policy, 80, 1));
  for (const char* policy : {"snapkv", "restkv"}) caches.push_back(decode_evict_cache(policy, 80, 8));
  caches.push_back(decode_evict_cache("h2o", 60, 2));
  caches.back().allocation = Allocation::ada;
  const std::vector<ModelConfig> configs = mpi_runtime().size() == 4
                                               ? std::vector{small_config(8, 2, 64), small_config(8, 1, 64)}
                                               : std::vector{small_config(12, 1, 64), small_config(12, 2, 64)};
  for (const ModelConfig& config : configs)
    for (auto& [layout, grid] : grids)
      for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence})
        if (layout_allowed(config, layout.second)) {
          SCOPED_TRACE(fmt::format("{} KV heads", config.Hkv));
          expect_eviction_of_one_rank(*ctx, *grid, config, form_of(mode), caches);
          expect_graphs_like_single_launches(*ctx, *grid, config, decode_evict_cache("h2o", 80, 2), form_of(mode));
          expect_graphs_like_single_launches(*ctx, *grid, config, decode_evict_cache("restkv", 80, 8), form_of(mode));
        }
}

// Rules that read no queries, with positions in the cache: slots are numbered anew at every eviction.
TEST_F(DecodeEvictNccl, SpreadRowsWithPositionsInTheCache) {
  const ModelConfig config = config_for();
  std::vector<CacheConfig> caches = {decode_evict_cache("random", 80, 5), decode_evict_cache("key_norm", 80, 3),
                                     decode_evict_cache("sliding_window", 80, 1),
                                     decode_evict_cache("streaming_llm", 80, 7), decode_evict_cache("lacache", 80, 3)};
  for (CacheConfig& cache : caches) cache.positions = Positions::cache;
  caches.push_back(decode_evict_cache("streaming_llm", 80, 7));
  caches.push_back(decode_evict_cache("lacache", 80, 3));
  for (size_t i : {caches.size() - 2, caches.size() - 1}) caches[i].positions = Positions::original;
  for (auto& [layout, grid] : grids)
    if (layout_allowed(config, layout.second) && layout.first > 1)
      expect_eviction_of_one_rank(*ctx, *grid, config, form_of(DecodeMode::sequence), caches);
}

// Without peer memory the merges are collectives.
TEST_F(DecodeEvictNccl, SpreadRowsByCollectives) {
  const ModelConfig config = config_for();
  RanksForm form = form_of(DecodeMode::sequence);
  form.peer_memory = false;
  for (auto& [layout, grid] : grids)
    if (layout_allowed(config, layout.second) && layout.first > 1)
      expect_eviction_of_one_rank(*ctx, *grid, config, form,
                                  {decode_evict_cache("h2o", 60, 4), decode_evict_cache("tova", 80, 1)});
}

TEST_F(DecodeEvictNccl, GraphsEqualSingleLaunches) {
  const ModelConfig config = config_for();
  for (auto& [layout, grid] : grids)
    for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence})
      for (const char* policy : {"streaming_llm", "lacache", "random", "tova", "h2o", "snapkv"})
        if (layout_allowed(config, layout.second))
          expect_graphs_like_single_launches(*ctx, *grid, config, decode_evict_cache(policy, 80, 4), form_of(mode));
}

TEST_F(DecodeEvictNccl, FourThousandTokensWithinTheBound) {
  const ModelConfig config = config_for();
  for (auto& [layout, grid] : grids) {
    if (layout.second != 1) continue;
    for (const auto& [policy, every] :
         std::vector<std::pair<const char*, int64_t>>{{"streaming_llm", 1}, {"h2o", 1}, {"lacache", 4}, {"restkv", 64}})
      expect_long_generation_within_bound(*ctx, *grid, config, decode_evict_cache(policy, 256, every),
                                          form_of(DecodeMode::sequence));
  }
}

}  // namespace
}  // namespace restkv::testing
