// The whole engine on a GPU against the CPU engine, on the same weights; graphs against eager execution, batches
// against single sequences. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <numeric>

#include "dist/base/activity.h"
#include "dist/base/error.h"
#include "dist/base/mix.h"
#include "model/checkpoint.h"
#include "model/decode_batch.h"
#include "model/families/family.h"
#include "model/ops/decode_linear.h"
#include "model/weights/random_source.h"
#include "tests/gpu_test.h"
#include "tests/model/run_model.h"
#include "tests/model/small_models.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

using testing::random_prompt;
using testing::small_config;

CacheConfig restkv_cache(int64_t budget, Granularity granularity = Granularity::kv_head) {
  CacheConfig cache;
  cache.budget.tokens = budget;
  cache.window = 16;
  cache.beta = 100.0;
  cache.granularity = granularity;
  return cache;
}

CacheConfig full_cache() {
  CacheConfig cache;
  cache.policy = "full";
  return cache;
}

// Largest difference over the largest magnitude.
double difference(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  double scale = 0.0, worst = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    scale = std::max(scale, std::abs(static_cast<double>(want[i])));
    worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]));
  }
  return worst / scale;
}

// Differences of many rows: any single one, and their mean.
class RowDifferences {
 public:
  void add(double row, const std::string& what) {
    EXPECT_LT(row, testing::kLogitsBf16Row) << what;
    sum_ += row;
    worst_ = std::max(worst_, row);
    ++count_;
  }
  void expect_close(const char* name) const {
    printf("%s: %d rows, logits differ by %.4f on average, %.4f at most\n", name, count_, sum_ / count_, worst_);
    EXPECT_LT(sum_ / count_, testing::kLogitsBf16);
  }

 private:
  double sum_ = 0.0, worst_ = 0.0;
  int count_ = 0;
};

class TransformerGpu : public testing::GpuTest {
 protected:
  int threads() const override { return 8; }  // of small models: more would wait for each other

  std::unique_ptr<Transformer> make(Context& ctx, const ModelConfig& config, const CacheConfig& cache) {
    // A large gain keeps attention from being flat, so that what is evicted matters.
    return std::make_unique<Transformer>(ctx, grid, config, RandomSource(config, 17, 1.5), cache, TransformerOptions{});
  }

  Sequence prefill(Transformer& model, std::span<const int32_t> prompt, int64_t new_tokens) {
    PrefillOptions options;
    options.max_new_tokens = new_tokens;
    return model.prefill(prompt, options);
  }

  void compare_logits(const ModelConfig& config);
  void expect_batch_equals_single(int members, int64_t prompt_step, const std::function<int(int)>& steps);

  Context cpu{Context::Options{Device::cpu, 8}};
  ProcessGrid grid{make_self_communicator(), 1, 1};
};

struct Shape {
  int64_t Hq, Hkv, d;
};
class TransformerGpuShapes : public TransformerGpu, public ::testing::WithParamInterface<Shape> {};
INSTANTIATE_TEST_SUITE_P(Heads, TransformerGpuShapes,
                         ::testing::Values(Shape{4, 4, 64}, Shape{6, 2, 64}, Shape{8, 2, 128}, Shape{8, 1, 64},
                                           Shape{2, 1, 256}));

void TransformerGpu::compare_logits(const ModelConfig& config) {
  auto on_cpu = make(cpu, config, full_cache()), on_gpu = make(*gpu, config, full_cache());
  RowDifferences rows;
  for (int64_t n : {1, 17, 300, 2000}) {
    SCOPED_TRACE(n);
    std::vector<int32_t> tokens = random_prompt(n + 5, config.vocab);
    Sequence want = prefill(*on_cpu, std::span(tokens).first(n), 5),
             got = prefill(*on_gpu, std::span(tokens).first(n), 5);
    rows.add(difference(got.logits, want.logits), "prefill");
    for (int64_t i = n; i < n + 5; ++i) {  // the same tokens for both, whatever they would sample
      on_cpu->decode_step(want, tokens[i]);
      on_gpu->decode_step(got, tokens[i]);
      rows.add(difference(got.logits, want.logits), fmt::format("step {}", i - n));
    }
  }
  rows.expect_close("random weights");
}

TEST_P(TransformerGpuShapes, PrefillAndDecodeLogits) {
  compare_logits(small_config(GetParam().Hq, GetParam().Hkv, GetParam().d));
}

TEST_F(TransformerGpu, FamiliesPrefillAndDecodeLogits) {
  ModelConfig gemma = small_config(4, 1, 256, "gemma"), qwen2 = small_config(6, 2, 64, "qwen2");
  gemma.traits = kGemmaTraits;
  gemma.tied_embeddings = true;
  compare_logits(gemma);
  qwen2.traits = kQwen2Traits;
  qwen2.rope.type = "yarn";
  qwen2.rope.factor = 4.0;
  qwen2.rope.original_max_positions = 512;
  qwen2.rope.attention_factor = 1.125;
  compare_logits(qwen2);
}

TEST_P(TransformerGpuShapes, EvictionKeepsTheSameRows) {
  ModelConfig config = small_config(GetParam().Hq, GetParam().Hkv, GetParam().d);
  for (Granularity granularity : {Granularity::kv_head, Granularity::query_head}) {
    auto on_cpu = make(cpu, config, restkv_cache(300, granularity));
    auto on_gpu = make(*gpu, config, restkv_cache(300, granularity));
    std::vector<int32_t> tokens = random_prompt(1501, config.vocab);
    Sequence want = prefill(*on_cpu, tokens, 4), got = prefill(*on_gpu, tokens, 4);
    EXPECT_EQ(got.report.kept_counts, want.report.kept_counts);
    EXPECT_EQ(got.report.cache_bytes * 2, want.report.cache_bytes);  // bf16 instead of f32
    testing::KeptSet a = testing::gather_kept(grid.world(), got.cache, 0);
    testing::KeptSet b = testing::gather_kept(grid.world(), want.cache, 0);
    EXPECT_EQ(a.size(), b.size());
    // Layer 0 sees the same activations but for one rounding; deeper layers add their own.
    EXPECT_GT(testing::jaccard(a, b), testing::kJaccardBf16Random);
    // The tally on the device against the rows themselves.
    uint64_t hash = 0;
    for (auto [layer, head, position] : a) hash += kept_hash_term(layer, head, position);
    EXPECT_EQ(hash, got.report.kept_hash);
    on_gpu->decode_step(got, 7);
    for (float x : got.logits) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST_F(TransformerGpu, SecondPrefillGivesTheSameBits) {
  ModelConfig config = small_config(8, 2, 128);
  auto model = make(*gpu, config, restkv_cache(200));
  std::vector<int32_t> tokens = random_prompt(1000, config.vocab);
  Sequence first = prefill(*model, tokens, 0), second = prefill(*model, tokens, 0);
  EXPECT_EQ(first.logits, second.logits);
  EXPECT_EQ(first.report.kept_hash, second.report.kept_hash);
}

std::vector<int32_t> run_batch(Transformer& model, Sequence& sequence, const SamplingConfig& sampling, int steps) {
  auto batch = make_decode_batch(model, {{&sequence, sampling, 5}});
  std::vector<int32_t> tokens;
  for (int i = 0; i < steps; ++i) {
    tokens.push_back(batch->tokens()[0]);
    if (i + 1 < steps) batch->step(batch->tokens());
  }
  return tokens;
}

TEST_F(TransformerGpu, GraphEqualsEager) {
  ModelConfig config = small_config(8, 2, 128);
  std::vector<int32_t> tokens = random_prompt(700, config.vocab);
  for (const CacheConfig& cache : {full_cache(), restkv_cache(64)}) {
    auto model = make(*gpu, config, cache);
    for (const SamplingConfig& sampling : {SamplingConfig{}, SamplingConfig{0.9, 50, 0.95, 3}}) {
      // No room reserved: the cache grows under the captured graph.
      Sequence eager = prefill(*model, tokens, 0), graph = prefill(*model, tokens, 0);
      std::vector<int32_t> want;
      for (int i = 0; i < 60; ++i) {
        want.push_back(sample(eager.logits, sampling, 5, static_cast<uint64_t>(i)));
        if (i < 59) model->decode_step(eager, want.back());
      }
      EXPECT_EQ(run_batch(*model, graph, sampling, 60), want) << cache.policy;
      EXPECT_EQ(graph.length, eager.length);
      EXPECT_EQ(graph.cache.positions(1, 0), eager.cache.positions(1, 0));
    }
  }
}

// Members of all lengths that leave one after the other; member i has prompt_step more tokens than the one before, and
// draws steps(i) tokens.
void TransformerGpu::expect_batch_equals_single(int members, int64_t prompt_step,
                                                const std::function<int(int)>& steps) {
  ModelConfig config = small_config(6, 2, 64);
  auto model = make(*gpu, config, restkv_cache(100));
  SamplingConfig sampling{1.5, 0, 1.0, 11};
  std::vector<Sequence> together;
  std::vector<std::vector<int32_t>> want, got(static_cast<size_t>(members));
  for (int i = 0; i < members; ++i) {
    auto prompt = random_prompt(40 + prompt_step * i, config.vocab, 1000 + i);
    Sequence alone = prefill(*model, prompt, 4);
    want.push_back(run_batch(*model, alone, sampling, steps(i)));
    together.push_back(prefill(*model, prompt, 40));
  }
  std::vector<DecodeBatch::Member> joined;
  for (Sequence& s : together) joined.push_back({&s, sampling, 5});
  auto batch = make_decode_batch(*model, joined);
  std::vector<int> index(static_cast<size_t>(members));
  std::iota(index.begin(), index.end(), 0);
  while (!index.empty()) {
    std::vector<int32_t> tokens(batch->tokens().begin(), batch->tokens().end()), next;
    for (int64_t m = static_cast<int64_t>(index.size()) - 1; m >= 0; --m) {
      got[index[m]].push_back(tokens[m]);
      if (got[index[m]].size() == want[index[m]].size()) {
        batch->leave(m);
        index.erase(index.begin() + m);
      } else {
        next.insert(next.begin(), tokens[m]);
      }
    }
    if (!index.empty()) batch->step(next);
  }
  for (int i = 0; i < members; ++i) EXPECT_EQ(got[i], want[i]) << i;
}

TEST_F(TransformerGpu, BatchesGiveWhatSingleSequencesGive) {
  expect_batch_equals_single(9, 90, [](int i) { return 4 + 3 * i; });
}

// Larger ones are near single sequences (decode_ranks_gpu_test): cuBLASLt multiplies then.
TEST_F(TransformerGpu, TheLargestStreamedBatchGivesWhatSingleSequencesGive) {
  expect_batch_equals_single(static_cast<int>(kStreamedBatch), 5, [](int i) { return 3 + i % 7 * 2; });
}

TEST_F(TransformerGpu, RefusesALargerBatch) {
  ModelConfig config = small_config(6, 2, 64);
  auto model = make(*gpu, config, full_cache());
  auto prompt = random_prompt(20, config.vocab);
  std::vector<Sequence> sequences;
  std::vector<DecodeBatch::Member> members;
  for (int64_t i = 0; i <= kMaxDecodeBatch; ++i) sequences.push_back(prefill(*model, prompt, 2));
  for (Sequence& s : sequences) members.push_back({&s, {}, 0});
  EXPECT_THROW(make_decode_batch(*model, members), RuntimeFailure);
}

TEST_F(TransformerGpu, AnErrorNamesRankLayerAndPhase) {
  ModelConfig config = small_config(8, 2, 128);
  config.max_positions = int64_t{1} << 40;
  auto model = make(*gpu, config, full_cache());
  std::vector<int32_t> tokens = random_prompt(100, config.vocab);
  try {
    prefill(*model, tokens, int64_t{1} << 34);  // more cache rows than any GPU holds
    FAIL() << "no error";
  } catch (const RuntimeFailure& e) {
    const std::string text = e.what();
    EXPECT_EQ(describe(activity()), "prefill, layer 0, compact");  // what the program puts before the message
    EXPECT_NE(text.find("out of GPU memory"), std::string::npos) << text;
    EXPECT_NE(text.find("bytes asked for"), std::string::npos) << text;
  }
  EXPECT_NO_THROW(prefill(*model, tokens, 4));  // the device is still of use
}

TEST_F(TransformerGpu, PhasesAddUpToThePrefill) {
  ModelConfig config = small_config(8, 2, 128);
  auto model = make(*gpu, config, restkv_cache(200));
  std::vector<int32_t> tokens = random_prompt(3000, config.vocab);
  prefill(*model, tokens, 0);
  Sequence sequence = prefill(*model, tokens, 0);
  double sum = 0.0;
  for (const char* phase : {"embed", "gemm", "attention", "scoring", "select", "compact", "logits"})
    EXPECT_GT(sequence.report.seconds_of(phase), 0.0) << phase;
  for (const PhaseTime& phase : sequence.report.phases) sum += phase.seconds;
  EXPECT_LT(sum, 1.05 * sequence.report.seconds);
}

TEST_F(TransformerGpu, SmolLm2SameTextAndKeptSets) {
  const char* path = std::getenv("RESTKV_SMOLLM2");
  if (path == nullptr) GTEST_SKIP() << "RESTKV_SMOLLM2 does not name the model (launch/fetch_smollm2.sh)";
  Checkpoint checkpoint = open_checkpoint(path);
  std::string text;
  for (int i = 0; i < 60; ++i)
    text += fmt::format("Line {}: the number of house {} is {}. ", i, i, mix64(static_cast<uint64_t>(i)) % 1000);
  text += "\nQuestion: what is the number of house 7?\nAnswer: the number of house 7 is";
  std::vector<int32_t> ids = checkpoint.tokenizer->encode(text, false);
  CacheConfig half, third;
  half.budget.fraction = 0.5;
  third.budget.fraction = 0.3;  // nearer to the crowd of small scores, where more of them change places
  for (const CacheConfig& config : {full_cache(), half, third}) {
    SCOPED_TRACE(fmt::format("{} {}", config.policy, config.budget.fraction));
    Transformer on_cpu(cpu, grid, checkpoint.config, *checkpoint.weights, config, {DecodeMode::tensor, DType::bf16});
    Transformer on_gpu(*gpu, grid, checkpoint.config, *checkpoint.weights, config, {});
    Sequence want = prefill(on_cpu, ids, 24), got = prefill(on_gpu, ids, 24);
    EXPECT_LT(difference(got.logits, want.logits), testing::kLogitsBf16Row);
    double index = testing::jaccard(testing::gather_kept(grid.world(), got.cache, 0),
                                    testing::gather_kept(grid.world(), want.cache, 0));
    printf("%zu tokens, policy %s, budget %g: Jaccard index of the kept sets %.4f\n", ids.size(), config.policy.c_str(),
           config.budget.fraction, index);
    EXPECT_GE(index, config.budget.fraction == 0.3 ? testing::kJaccardBf16Third : testing::kJaccardBf16);
    // Greedy texts part for good at the first pair of logits that lies closer together than bf16 tells apart. So both
    // are fed the CPU's tokens: every step's logits are compared, and the choice wherever it is not that close.
    double worst = 0.0;
    for (int step = 0; step < 24; ++step) {
      const auto best = std::max_element(want.logits.begin(), want.logits.end()) - want.logits.begin();
      const auto chosen = std::max_element(got.logits.begin(), got.logits.end()) - got.logits.begin();
      const double gap = (want.logits[best] - want.logits[chosen]) / std::abs(want.logits[best]);
      worst = std::max(worst, difference(got.logits, want.logits));
      EXPECT_LT(difference(got.logits, want.logits), testing::kLogitsBf16Row) << "step " << step;
      EXPECT_LT(gap, testing::kLogitsBf16) << "step " << step << ": token " << chosen << " for " << best;
      on_cpu.decode_step(want, static_cast<int32_t>(best));
      on_gpu.decode_step(got, static_cast<int32_t>(best));
    }
    printf("24 steps: logits differ by %.4f at most\n", worst);
  }
}

}  // namespace
}  // namespace restkv
