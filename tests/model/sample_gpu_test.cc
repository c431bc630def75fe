// Sampling on the device against the host sampler: the same tokens. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "dist/base/error.h"
#include "model/ops/sample.h"
#include "tests/gpu_test.h"

namespace restkv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class SampleGpu : public testing::GpuTest {
 protected:
  struct Batch {
    Tensor logits, sampling, steps, tokens;
    SampleBatch args;
  };

  // One sequence per configuration; `logits` holds a row for each.
  Batch make(const std::vector<float>& logits, const std::vector<SamplingConfig>& configs, std::vector<int32_t> steps) {
    auto batch = static_cast<int64_t>(configs.size()), vocab = static_cast<int64_t>(logits.size()) / batch;
    std::vector<SequenceSampling> sampling;
    for (int64_t b = 0; b < batch; ++b) sampling.push_back(sequence_sampling(configs[b], 1000 + b));
    std::vector<int32_t> poison(configs.size(), -1);
    Batch made;
    made.logits = gpu->to_device(logits.data(), DType::f32, {batch, vocab});
    made.sampling =
        gpu->to_device(sampling.data(), DType::u8, {batch * static_cast<int64_t>(sizeof(SequenceSampling))});
    made.steps = gpu->to_device(steps.data(), DType::i32, {batch});
    made.tokens = gpu->to_device(poison.data(), DType::i32, {batch});
    made.args = {made.logits.data<float>(),
                 batch,
                 vocab,
                 static_cast<SequenceSampling*>(made.sampling.raw()),
                 made.steps.data<int32_t>(),
                 made.tokens.data<int32_t>()};
    return made;
  }

  void compare(const std::vector<float>& logits, const std::vector<SamplingConfig>& configs, int32_t first_step) {
    size_t vocab = logits.size() / configs.size();
    std::vector<int32_t> steps;
    for (size_t b = 0; b < configs.size(); ++b) steps.push_back(first_step + static_cast<int32_t>(3 * b));
    Batch batch = make(logits, configs, steps);
    sample_batch(*gpu, batch.args);
    std::vector<int32_t> tokens = gpu->to_host<int32_t>(batch.tokens);
    for (size_t b = 0; b < configs.size(); ++b) {
      std::span<const float> row(logits.data() + b * vocab, vocab);
      EXPECT_EQ(tokens[b], sample(row, configs[b], 1000 + b, static_cast<uint64_t>(steps[b])))
          << "vocabulary " << vocab << ", temperature " << configs[b].temperature << ", top_k " << configs[b].top_k
          << ", top_p " << configs[b].top_p << ", step " << steps[b];
    }
  }
};

std::vector<float> normal_logits(size_t n, uint32_t seed, float spread) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  return x;
}

std::vector<SamplingConfig> all_configs() {
  std::vector<SamplingConfig> configs;
  for (double temperature : {0.0, 0.3, 1.0, 2.5})
    for (int64_t top_k : {0, 1, 7, 50, 3000})
      for (double top_p : {1.0, 0.95, 0.5, 1e-6}) {
        if (temperature == 0.0 && (top_k != 0 || top_p != 1.0)) continue;
        configs.push_back({temperature, top_k, top_p, 11});
      }
  return configs;
}

TEST_F(SampleGpu, SameTokensAsTheHost) {
  std::vector<SamplingConfig> configs = all_configs();
  for (size_t vocab : {1, 5, 31, 1000, 8191, 32000})
    compare(normal_logits(vocab * configs.size(), 1, 3.0f), configs, 0);
}

TEST_F(SampleGpu, LargeVocabularies) {
  std::vector<SamplingConfig> configs = {{0.0, 0, 1.0, 1}, {1.0, 0, 1.0, 2},   {0.7, 40, 0.9, 3},
                                         {1.0, 0, 0.9, 4}, {1.3, 500, 1.0, 5}, {0.05, 0, 0.99, 6}};
  for (size_t vocab : {128256, 151936, 262144}) compare(normal_logits(vocab * configs.size(), 2, 2.0f), configs, 5);
  std::vector<SamplingConfig> one(1);
  EXPECT_THROW(compare(normal_logits(262145, 2, 2.0f), one, 0), std::exception);
}

// Cuts fall among equal logits, which are spread over all blocks.
TEST_F(SampleGpu, Ties) {
  std::vector<SamplingConfig> configs = all_configs();
  size_t vocab = 5003;
  std::vector<float> logits = normal_logits(vocab * configs.size(), 3, 2.0f);
  for (float& x : logits) x = std::round(x);  // -0 too
  for (int32_t step : {0, 1000}) compare(logits, configs, step);
  compare(std::vector<float>(vocab * configs.size(), 0.25f), configs, 0);
}

TEST_F(SampleGpu, InfinitiesAndNaN) {
  std::vector<SamplingConfig> configs = {{0.0, 0, 1.0, 1}, {1.0, 0, 1.0, 2}, {1.0, 20, 0.9, 3}};
  size_t vocab = 3000;
  std::vector<float> logits = normal_logits(vocab * configs.size(), 4, 1.0f);
  for (size_t i = 0; i < logits.size(); ++i)
    if (i % 3 != 0) logits[i] = i % 3 == 1 ? -kInfinity : NAN;
  compare(logits, configs, 7);
  compare(std::vector<float>(vocab * configs.size(), -kInfinity), configs, 0);
  compare(std::vector<float>(vocab * configs.size(), NAN), configs, 0);
  logits[17] = logits[vocab + 17] = logits[2 * vocab + 17] = kInfinity;
  compare(logits, configs, 7);
}

TEST_F(SampleGpu, ManyDraws) {
  size_t vocab = 600;
  std::vector<SamplingConfig> configs(64, SamplingConfig{1.0, 100, 0.9, 9});
  std::vector<float> logits = normal_logits(vocab, 5, 2.0f), rows;
  for (size_t b = 0; b < configs.size(); ++b) rows.insert(rows.end(), logits.begin(), logits.end());
  for (int32_t step = 0; step < 20; ++step) compare(rows, configs, step);
}

TEST_F(SampleGpu, GraphReadsParametersAndStepsAnew) {
  size_t vocab = 32000;
  std::vector<float> logits = normal_logits(vocab, 6, 2.0f);
  SamplingConfig config{1.0, 0, 0.95, 3};
  Batch batch = make(logits, {config}, {0});
  auto graph = gpu->gpu()->capture([&] { sample_batch(*gpu, batch.args); });
  for (int32_t step = 0; step < 5; ++step) {
    gpu->gpu()->to_device(batch.steps.raw(), &step, sizeof(step));
    gpu->gpu()->launch(graph.get());
    EXPECT_EQ(gpu->to_host<int32_t>(batch.tokens)[0], sample(logits, config, 1000, static_cast<uint64_t>(step)));
  }
  SequenceSampling greedy = sequence_sampling({}, 1000);
  gpu->gpu()->to_device(batch.sampling.raw(), &greedy, sizeof(greedy));
  gpu->gpu()->launch(graph.get());
  EXPECT_EQ(gpu->to_host<int32_t>(batch.tokens)[0], sample(logits, {}, 0, 0));
}

}  // namespace
}  // namespace restkv
