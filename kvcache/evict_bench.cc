// Time of one layer's eviction on one rank: arguments are L, Hq, Hkv, d, W, threads.
#include <benchmark/benchmark.h>

#include <random>

#include "kvcache/evict.h"

namespace restkv {
namespace {

std::vector<float> normal(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> distribution;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = distribution(random);
  return values;
}

void evict_layer(benchmark::State& state, const CacheConfig& base) {
  const int64_t L = state.range(0), Hq = state.range(1), Hkv = state.range(2), d = state.range(3);
  CacheConfig config = base;
  config.window = state.range(4);
  config.budget.tokens = std::max<int64_t>(L * 15 / 100, config.window + 1);
  config.beta = 200;
  Context ctx({Device::cpu, static_cast<int>(state.range(5))});
  auto self = make_self_communicator();
  std::mt19937 random(1);
  const std::vector<float> q = normal(random, config.window * Hq * d), k = normal(random, L * Hkv * d);
  const std::vector<float> v = normal(random, L * Hkv * d), r = normal(random, Hq * d * d);
  const SequencePartition partition(L, 1);
  const LayerKv layer{
      0, &partition, {q.data(), config.window, Hq * d}, {k.data(), L, Hkv * d}, {v.data(), L, Hkv * d}, r.data()};
  Evictor evictor(ctx, *self, *self, {Hq, Hkv, d, {{0, Hq}, {0, Hkv}}}, config);
  for (auto _ : state) benchmark::DoNotOptimize(evictor.evict(layer));
  state.counters["peak_MB"] = static_cast<double>(ctx.memory().peak()) * 1e-6;
}

CacheConfig with(const char* policy, ScoreMode mode, Pooling pooling) {
  CacheConfig config;
  config.policy = policy;
  config.mode = mode;
  config.pooling = pooling;
  return config;
}

void shapes(benchmark::internal::Benchmark* b) {
  b->Unit(benchmark::kMillisecond)->UseRealTime()->ArgNames({"L", "Hq", "Hkv", "d", "W", "threads"});
  for (int threads : {1, 2}) b->Args({6000, 9, 3, 64, 32, threads});
}

BENCHMARK_CAPTURE(evict_layer, restkv_after, with("restkv", ScoreMode::after, Pooling::adaptive))->Apply(shapes);
BENCHMARK_CAPTURE(evict_layer, restkv_before, with("restkv", ScoreMode::before, Pooling::adaptive))->Apply(shapes);
BENCHMARK_CAPTURE(evict_layer, restkv_average, with("restkv", ScoreMode::after, Pooling::average))->Apply(shapes);
BENCHMARK_CAPTURE(evict_layer, snapkv, with("snapkv", ScoreMode::after, Pooling::average))->Apply(shapes);

}  // namespace
}  // namespace restkv

BENCHMARK_MAIN();
