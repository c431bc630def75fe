// Eviction while decoding on one GPU: graphs against eager execution, batches against single sequences, bounds, memory.
// Skips when there is no GPU.
#include <cstring>

#include "tests/gpu_test.h"
#include "tests/model/decode_evict_ranks.h"

namespace restkv::testing {
namespace {

class DecodeEvictModelGpu : public GpuTest {
 protected:
  ModelConfig config = small_config(8, 2, 64);
  ProcessGrid grid{make_self_communicator(), 1, 1};
};

TEST_F(DecodeEvictModelGpu, GraphsEqualEagerSteps) {
  for (const CacheConfig& cache : decode_evict_caches()) {
    SCOPED_TRACE(name_of_rule(cache));
    auto model = make_evicting_model(*gpu, grid, config, cache);
    std::vector<Sequence> a, b;
    for (int64_t i = 0; i < 3; ++i) {
      a.push_back(prefill_for(*model, 40 + 150 * i, static_cast<uint64_t>(i), 100));
      b.push_back(a.back().clone());
    }
    std::vector<DecodeBatch::Member> in_a, in_b;
    for (size_t i = 0; i < a.size(); ++i) {
      const SamplingConfig sampling = i % 2 == 0 ? SamplingConfig{} : SamplingConfig{0.9, 50, 0.95, 3};
      in_a.push_back({&a[i], sampling, i});
      in_b.push_back({&b[i], sampling, i});
    }
    DeviceDecodeBatch eager(*model, in_a), graph(*model, in_b);
    for (int step = 0; step < 100; ++step) {
      const std::vector<int32_t> want(eager.tokens().begin(), eager.tokens().end()),
          got(graph.tokens().begin(), graph.tokens().end());
      ASSERT_EQ(got, want) << "step " << step;
      eager.step_eagerly(want);
      graph.step(got);
      ASSERT_EQ(graph.logits(1), eager.logits(1)) << "step " << step;
      if (step % 10 == 0)
        for (size_t i = 0; i < a.size(); ++i) expect_bounded(*gpu, b[i], cache, fmt::format("step {}", step));
      if (HasFatalFailure()) return;
    }
    for (size_t i = 0; i < a.size(); ++i)
      for (int64_t layer = 0; layer < config.layers; ++layer)
        for (int64_t h = 0; h < a[i].cache.heads(); ++h)
          ASSERT_EQ(b[i].cache.positions(layer, h), a[i].cache.positions(layer, h)) << "member " << i;
  }
}

TEST_F(DecodeEvictModelGpu, BatchesEqualSingleSequences) {
  const SamplingConfig sampling{1.5, 0, 1.0, 11};
  for (const CacheConfig& cache : decode_evict_caches()) {
    SCOPED_TRACE(name_of_rule(cache));
    auto model = make_evicting_model(*gpu, grid, config, cache);
    std::vector<Sequence> alone, together;
    std::vector<std::vector<int32_t>> want, got;
    for (int64_t i = 0; i < 5; ++i) {
      alone.push_back(prefill_for(*model, 50 + 60 * i, 1000 + static_cast<uint64_t>(i), 120));
      together.push_back(alone.back().clone());
      want.emplace_back(), got.emplace_back();
      DeviceDecodeBatch batch(*model, {{&alone.back(), sampling, static_cast<uint64_t>(i)}});
      for (int64_t s = 0; s < 60 + 10 * i; ++s) {
        want.back().push_back(batch.tokens()[0]);
        batch.step({&want.back().back(), 1});
      }
    }
    std::vector<DecodeBatch::Member> members;
    for (size_t i = 0; i < together.size(); ++i) members.push_back({&together[i], sampling, i});
    DeviceDecodeBatch batch(*model, members);
    std::vector<size_t> index = {0, 1, 2, 3, 4};
    while (!index.empty()) {
      const std::vector<int32_t> tokens(batch.tokens().begin(), batch.tokens().end());
      for (size_t m = 0; m < index.size(); ++m) got[index[m]].push_back(tokens[m]);
      batch.step(tokens);
      // Whoever is done leaves with the cache that it has alone.
      for (int64_t m = static_cast<int64_t>(index.size()) - 1; m >= 0; --m)
        if (got[index[m]].size() == want[index[m]].size()) {
          batch.leave(m);
          index.erase(index.begin() + m);
        }
    }
    for (size_t i = 0; i < alone.size(); ++i) {
      EXPECT_EQ(got[i], want[i]) << "member " << i;
      for (int64_t layer = 0; layer < config.layers; ++layer)
        for (int64_t h = 0; h < alone[i].cache.heads(); ++h)
          ASSERT_EQ(together[i].cache.positions(layer, h), alone[i].cache.positions(layer, h))
              << "member " << i << ", layer " << layer << ", head " << h;
    }
  }
}

TEST_F(DecodeEvictModelGpu, PositionsByDefinition) {
  KeptSet recent, streaming;
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (int64_t head = 0; head < config.Hkv; ++head)
      for (int64_t p = 0; p < 350; ++p) {
        if (p >= 350 - 80) recent.insert({layer, head, p});
        if (p < 4 || p >= 350 - 76) streaming.insert({layer, head, p});
      }
  for (int64_t L : {300, 20}) {
    const int steps = static_cast<int>(350 - L);
    EXPECT_EQ(run_evicting(*gpu, grid, config, decode_evict_cache("sliding_window", 80, 1), L, steps, RanksForm{}).kept,
              recent);
    EXPECT_EQ(run_evicting(*gpu, grid, config, decode_evict_cache("streaming_llm", 80, 1), L, steps, RanksForm{}).kept,
              streaming);
  }
  const CacheConfig cache = decode_evict_cache("lacache", 80, 1);
  const KeptSet want = ladder_by_definition(config);
  EXPECT_EQ(run_evicting(*gpu, grid, config, cache, 300, 50, RanksForm{}).kept, want);
}

TEST_F(DecodeEvictModelGpu, AWideBudgetChangesNothing) {
  CacheConfig full;
  full.policy = "full";
  const EvictedText want = run_evicting(*gpu, grid, config, full, 100, 30, RanksForm{});
  for (const char* policy : {"sliding_window", "streaming_llm", "lacache", "tova", "h2o", "restkv", "snapkv"}) {
    const EvictedText got = run_evicting(*gpu, grid, config, decode_evict_cache(policy, 200, 1), 100, 30, RanksForm{});
    EXPECT_EQ(got.text, want.text) << policy;
    EXPECT_EQ(got.kept, want.kept) << policy;
  }
}

// 2,000 tokens in a batch: within the bound, and without a byte more.
TEST_F(DecodeEvictModelGpu, LongGenerationStaysWithinItsBound) {
  for (const auto& [policy, every] : std::vector<std::pair<const char*, int64_t>>{
           {"streaming_llm", 1}, {"tova", 1}, {"h2o", 1}, {"lacache", 1}, {"restkv", 32}, {"snapkv", 16}}) {
    const CacheConfig cache = decode_evict_cache(policy, 256, every);
    SCOPED_TRACE(name_of_rule(cache));
    auto model = make_evicting_model(*gpu, grid, config, cache);
    Sequence a = prefill_for(*model, 300, 1, 2000), b = prefill_for(*model, 700, 2, 2000);
    DeviceDecodeBatch batch(*model, {{&a, {}, 0}, {&b, {}, 1}});
    int64_t memory = 0, capacity = 0;
    for (int step = 0; step < 2000; ++step) {
      const std::vector<int32_t> tokens(batch.tokens().begin(), batch.tokens().end());
      batch.step(tokens);
      for (const Sequence* s : {&a, &b})
        for (int64_t layer = 0; layer < config.layers; ++layer)
          ASSERT_LE(s->cache.length(layer, 0), bound_of(cache)) << "step " << step;
      if (step % 200 == 0) expect_bounded(*gpu, a, cache, fmt::format("step {}", step));
      if (step == 100) memory = gpu->memory().current(), capacity = a.cache.capacity_bytes();
    }
    EXPECT_EQ(gpu->memory().current(), memory);
    EXPECT_EQ(a.cache.capacity_bytes(), capacity);
    const int64_t row = 2 * config.d * 2, rows = bound_of(cache) + 1;
    EXPECT_LE(capacity, config.layers * config.Hkv * row * (policy == std::string("lacache") ? 2 : 1) * rows);
  }
}

TEST_F(DecodeEvictModelGpu, FourThousandTokensWithinTheBound) {
  for (const auto& [policy, every] :
       std::vector<std::pair<const char*, int64_t>>{{"streaming_llm", 1}, {"h2o", 1}, {"lacache", 4}, {"restkv", 64}})
    expect_long_generation_within_bound(*gpu, grid, config, decode_evict_cache(policy, 256, every), {});
}

TEST_F(DecodeEvictModelGpu, PhasesName) {
  const CacheConfig cache = decode_evict_cache("h2o", 80, 1);
  auto model = make_evicting_model(*gpu, grid, config, cache);
  Sequence s = prefill_for(*model, 300, 1, 10);
  DeviceDecodeBatch batch(*model, {{&s, {}, 0}});
  const std::vector<int32_t> tokens(batch.tokens().begin(), batch.tokens().end());
  double evict = 0.0;
  for (const PhaseTime& phase : batch.timed_step(tokens))
    if (phase.name == "evict") evict = phase.seconds;
  EXPECT_GT(evict, 0.0);
}

}  // namespace
}  // namespace restkv::testing
