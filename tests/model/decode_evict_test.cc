// Eviction while decoding: bounds, kept sets by position, and the same text on every layout and in both decode modes.
#include <gtest/gtest.h>

#include "dist/base/error.h"
#include "model/weights/random_source.h"
#include "tests/model/decode_evict_cases.h"
#include "tests/model/run_model.h"
#include "tests/model/small_models.h"

namespace restkv {
namespace {

ModelConfig tiny_config(int64_t Hq = 12, int64_t Hkv = 4) {
  ModelConfig config = testing::tiny_config(Hq, Hkv);
  config.layers = 4;
  return config;
}

std::vector<int32_t> random_prompt(int64_t n) { return testing::random_prompt(n, tiny_config().vocab); }

struct Outcome {
  std::vector<int32_t> text;
  testing::KeptSet kept;
  int64_t most_bytes = 0;  // of the cache, over all ranks, after any step
  int64_t capacity = 0;    // bytes of storage here at the end
};

Outcome run(const ProcessGrid& grid, const ModelConfig& config, const CacheConfig& cache, DecodeMode mode,
            const std::vector<int32_t>& prompt, int steps) {
  Context ctx({Device::cpu, 1});
  RandomSource source(config, 17, 3.0);
  Transformer model(ctx, grid, config, source, cache, {.decode = mode});
  PrefillOptions options;
  options.max_new_tokens = steps;
  Sequence sequence = model.prefill(prompt, options);
  Outcome outcome;
  for (int i = 0; i < steps; ++i) {
    outcome.text.push_back(sample(sequence.logits, {}, 0, static_cast<uint64_t>(i)));
    model.decode_step(sequence, outcome.text.back());
    int64_t bytes = sequence.cache.bytes();
    if (steps <= 200) grid.world().all_reduce(std::span<int64_t>(&bytes, 1));
    outcome.most_bytes = std::max(outcome.most_bytes, bytes);
  }
  const HeadRange& share = model.plan().decode.heads.local;
  outcome.kept = testing::gather_kept(grid.world(), sequence.cache,
                                      cache.granularity == Granularity::query_head ? share.q.begin : share.kv.begin);
  outcome.capacity = sequence.cache.capacity_bytes();
  return outcome;
}

// A row of K and V of one head in one layer takes 2 * 16 * 4 bytes.
int64_t rows_of(const ModelConfig& config, const CacheConfig& cache, int64_t bytes) {
  const int64_t heads = cache.granularity == Granularity::query_head ? config.Hq : config.Hkv;
  return bytes / (2 * 16 * 4 * config.layers * heads);
}

TEST(DecodeEviction, SameTextOnEveryLayout) {
  const ModelConfig config = tiny_config();
  for (int64_t L : {300, 40})  // evicted, and shorter than the budget
    for (const CacheConfig& cache : testing::decode_evict_caches()) {
      ProcessGrid alone(make_self_communicator(), 1, 1);
      const Outcome want = run(alone, config, cache, DecodeMode::tensor, random_prompt(L), 60);
      const int64_t bound = std::max(cache.budget.tokens, cache.decode.trigger) + cache.decode.every - 1;
      EXPECT_LE(rows_of(config, cache, want.most_bytes), bound) << cache.policy;
      for (auto [sequence_size, tensor_size] : testing::all_layouts())
        for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
          if (!testing::layout_allowed(config, tensor_size)) continue;
          SCOPED_TRACE(fmt::format("{}, every {}, prompt {}, layout {}x{}, mode {}", cache.policy, cache.decode.every,
                                   L, sequence_size, tensor_size, static_cast<int>(mode)));
          ProcessGrid grid = testing::make_grid(sequence_size, tensor_size);
          const Outcome got = run(grid, config, cache, mode, random_prompt(L), 60);
          EXPECT_EQ(got.text, want.text);
          if (tensor_size == 1 && sequence_size == 1) {
            EXPECT_EQ(got.kept, want.kept);
          }
          EXPECT_GE(testing::jaccard(got.kept, want.kept), 0.9);
          // A KV head that lies on several ranks counts as often.
          if (testing::mpi_runtime().size() <= config.Hkv) {
            EXPECT_LE(rows_of(config, cache, got.most_bytes), bound);
          }
        }
    }
}

// One KV head whose query heads lie on several tensor ranks, which have a part of its group each.
TEST(DecodeEviction, SameTextWhereTensorRanksShareKvHeads) {
  const ModelConfig config = tiny_config(12, 1);
  std::vector<CacheConfig> caches;
  for (const char* policy : {"streaming_llm", "tova", "h2o", "snapkv", "restkv", "key_norm"})
    caches.push_back(testing::decode_evict_cache(policy, 80, 8));
  caches.push_back(testing::decode_evict_cache("h2o", 60, 2));
  caches.back().allocation = Allocation::ada;
  caches.push_back(testing::decode_evict_cache("restkv", 60, 7));
  caches.back().allocation = Allocation::ada_pyramid;
  caches.push_back(testing::decode_evict_cache("snapkv", 80, 8));
  caches.back().positions = Positions::cache;
  for (int64_t L : {300, 40})
    for (const CacheConfig& cache : caches) {
      ProcessGrid alone(make_self_communicator(), 1, 1);
      const Outcome want = run(alone, config, cache, DecodeMode::tensor, random_prompt(L), 60);
      for (auto [sequence_size, tensor_size] : testing::all_layouts())
        for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
          if (!testing::layout_allowed(config, tensor_size)) continue;
          SCOPED_TRACE(fmt::format("{}, prompt {}, layout {}x{}, mode {}", cache.policy, L, sequence_size, tensor_size,
                                   static_cast<int>(mode)));
          ProcessGrid grid = testing::make_grid(sequence_size, tensor_size);
          const Outcome got = run(grid, config, cache, mode, random_prompt(L), 60);
          EXPECT_EQ(got.text, want.text);
          EXPECT_GE(testing::jaccard(got.kept, want.kept), 0.9);
        }
    }
}

TEST(DecodeEviction, PositionsByDefinition) {
  const ModelConfig config = tiny_config();
  ProcessGrid grid = testing::make_grid(testing::mpi_runtime().size(), 1);
  for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
    testing::KeptSet recent, streaming;
    for (int64_t layer = 0; layer < config.layers; ++layer)
      for (int64_t head = 0; head < config.Hkv; ++head)
        for (int64_t p = 0; p < 350; ++p) {
          if (p >= 350 - 80) recent.insert({layer, head, p});
          if (p < 4 || p >= 350 - 76) streaming.insert({layer, head, p});
        }
    EXPECT_EQ(
        run(grid, config, testing::decode_evict_cache("sliding_window", 80, 1), mode, random_prompt(300), 50).kept,
        recent);
    EXPECT_EQ(run(grid, config, testing::decode_evict_cache("streaming_llm", 80, 1), mode, random_prompt(300), 50).kept,
              streaming);
    EXPECT_EQ(run(grid, config, testing::decode_evict_cache("streaming_llm", 80, 1), mode, random_prompt(20), 330).kept,
              streaming);
  }
}

// The ladder over a prompt and new tokens, slot by slot.
TEST(DecodeEviction, LadderByDefinition) {
  const ModelConfig config = tiny_config();
  ProcessGrid grid = testing::make_grid(testing::mpi_runtime().size(), 1);
  const testing::KeptSet want = testing::ladder_by_definition(config);
  for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence})
    EXPECT_EQ(run(grid, config, testing::decode_evict_cache("lacache", 80, 1), mode, random_prompt(300), 50).kept,
              want);
}

// With a budget that nothing exceeds, eviction while decoding changes nothing.
TEST(DecodeEviction, AWideBudgetChangesNothing) {
  if (testing::mpi_runtime().size() > 1) GTEST_SKIP() << "one rank shows it";
  const ModelConfig config = tiny_config();
  ProcessGrid alone(make_self_communicator(), 1, 1);
  CacheConfig full;
  full.policy = "full";
  const Outcome want = run(alone, config, full, DecodeMode::tensor, random_prompt(100), 30);
  for (const char* policy : {"sliding_window", "streaming_llm", "lacache", "tova", "h2o", "restkv", "snapkv"}) {
    const Outcome got =
        run(alone, config, testing::decode_evict_cache(policy, 200, 1), DecodeMode::tensor, random_prompt(100), 30);
    EXPECT_EQ(got.text, want.text) << policy;
    EXPECT_EQ(got.kept, want.kept) << policy;
  }
}

// On several ranks: the text of one rank to its end, in storage that does not grow.
TEST(DecodeEviction, LongGenerationEqualsOneRanks) {
  const int ranks = testing::mpi_runtime().size();
  if (ranks != 2) GTEST_SKIP() << "on two ranks; one has a test of its own";
  const ModelConfig config = tiny_config(4, 2);
  ProcessGrid alone(make_self_communicator(), 1, 1), grid = testing::make_grid(2, 1);
  for (auto [policy, every, mode] : {std::tuple{"h2o", 4, DecodeMode::tensor}, {"tova", 8, DecodeMode::sequence}}) {
    const CacheConfig cache = testing::decode_evict_cache(policy, 256, every);
    const Outcome want = run(alone, config, cache, DecodeMode::tensor, random_prompt(300), 4000);
    const Outcome some = run(grid, config, cache, mode, random_prompt(300), 400);
    const Outcome got = run(grid, config, cache, mode, random_prompt(300), 4000);
    EXPECT_EQ(got.text, want.text) << policy;
    // In mode sequence a rank's share of the rows comes and goes, up to all of them.
    if (mode == DecodeMode::tensor) {
      EXPECT_EQ(got.capacity, some.capacity) << policy << ": storage grows";
    }
    EXPECT_LE(got.capacity, 2 * want.capacity) << policy << ": storage grows";
    EXPECT_LE(rows_of(config, cache, want.most_bytes), 256 + every - 1) << policy;
  }
}

TEST(DecodeEviction, LongGenerationStaysWithinItsBound) {
  if (testing::mpi_runtime().size() > 1) GTEST_SKIP() << "one rank shows it";
  ModelConfig config = tiny_config(4, 2);
  ProcessGrid alone(make_self_communicator(), 1, 1);
  for (const char* policy : {"streaming_llm", "h2o", "tova", "lacache"}) {
    const CacheConfig cache = testing::decode_evict_cache(policy, 256, 1);
    const Outcome some = run(alone, config, cache, DecodeMode::tensor, random_prompt(300), 300);
    const Outcome all = run(alone, config, cache, DecodeMode::tensor, random_prompt(300), 4000);
    EXPECT_LE(rows_of(config, cache, all.most_bytes), 256) << policy;
    EXPECT_EQ(all.capacity, some.capacity) << policy << ": storage grows";
  }
}

TEST(DecodeEviction, RefusesWhatItCannotDo) {
  if (testing::mpi_runtime().size() > 1) GTEST_SKIP() << "one rank shows it";
  const ModelConfig config = tiny_config();
  ProcessGrid alone(make_self_communicator(), 1, 1);
  Context ctx({Device::cpu, 1});
  RandomSource source(config, 17, 3.0);
  auto refused = [&](CacheConfig cache) {
    try {
      Transformer model(ctx, alone, config, source, cache, {});
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CacheConfig cache = testing::decode_evict_cache("full", 80, 1);
  EXPECT_EQ(refused(cache), "decode.every: found 1, allowed with policy full: 0 (it does not evict)");
  cache = testing::decode_evict_cache("restkv", 80, 4);
  cache.decode.target = 16;
  EXPECT_EQ(refused(cache), "decode.target: found 16, allowed: 0, or at least 17 (the window of 16 and one more)");
  cache.decode.target = 100;
  EXPECT_EQ(refused(cache), "decode.trigger: found 80 tokens, allowed: 0, or at least the target of 100");
  cache.decode = {4, 90, 0};
  cache.allocation = Allocation::pyramid;
  EXPECT_EQ(refused(cache),
            "decode.trigger: found 90, allowed with an allocation that is not uniform: 0, the budget of each layer and "
            "head");
}

}  // namespace
}  // namespace restkv
