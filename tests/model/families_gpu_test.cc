// The model families on a GPU: Hugging Face's logits of every golden checkpoint, by prefill and token by token; what is
// kept of them; windows, soft-caps and dynamic frequencies against the CPU engine. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cmath>

#include "dist/base/mix.h"
#include "model/checkpoint.h"
#include "model/decode_batch.h"
#include "model/ops/attention_prefill.h"
#include "tests/gpu_test.h"
#include "tests/model/run_model.h"
#include "tests/read_safetensors.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

// All of tests/data/models but qwen2, whose heads of 8 elements are too small for GPUs (HeadsTooSmallAreRefused).
const char* const kModels[] = {"llama2",         "llama3",       "llama32",       "mistral", "mistral3",
                               "mistral_window", "llama_linear", "llama_dynamic", "gemma",   "gemma_2b",
                               "gemma2",         "qwen25",       "qwen2_yarn"};

std::string directory_of(const std::string& name) { return std::string(RESTKV_TEST_DATA "/models/") + name; }

CacheConfig full_cache() {
  CacheConfig cache;
  cache.policy = "full";
  return cache;
}

double difference(std::span<const float> got, std::span<const float> want) {
  EXPECT_EQ(got.size(), want.size());
  double scale = 0.0, worst = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    scale = std::max(scale, std::abs(static_cast<double>(want[i])));
    worst = std::max(worst, std::abs(static_cast<double>(want[i]) - got[i]));
  }
  return worst / scale;
}

// Differences of many rows: any single one, and their mean.
class Rows {
 public:
  explicit Rows(std::string name) : name_(std::move(name)) {}
  ~Rows() {
    printf("%s: %d rows, logits differ by %.4f on average, %.4f at most\n", name_.c_str(), count_, sum_ / count_,
           worst_);
    EXPECT_LT(sum_ / count_, testing::kLogitsBf16) << name_;
  }
  void add(double row, const std::string& what) {
    EXPECT_LT(row, testing::kLogitsBf16Row) << name_ << ", " << what;
    sum_ += row;
    worst_ = std::max(worst_, row);
    ++count_;
  }

 private:
  std::string name_;
  double sum_ = 0.0, worst_ = 0.0;
  int count_ = 0;
};

class FamiliesGpu : public testing::GpuTest {
 protected:
  int threads() const override { return 4; }  // of tiny models: more would wait for each other
  std::unique_ptr<Transformer> make(Context& ctx, const Checkpoint& checkpoint, const CacheConfig& cache) {
    // The CPU's weights rounded as the GPU's are, so that activations alone differ.
    return std::make_unique<Transformer>(ctx, grid, checkpoint.config, *checkpoint.weights, cache,
                                         TransformerOptions{DecodeMode::tensor, DType::bf16});
  }
  Sequence prefill(Transformer& model, std::span<const int32_t> prompt, int64_t new_tokens) {
    PrefillOptions options;
    options.max_new_tokens = new_tokens;
    return model.prefill(prompt, options);
  }

  Context cpu{Context::Options{Device::cpu, 4}};
  ProcessGrid grid{make_self_communicator(), 1, 1};
};

class FamiliesGpuGolden : public FamiliesGpu, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, FamiliesGpuGolden, ::testing::ValuesIn(kModels),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(FamiliesGpuGolden, PrefillLogits) {
  const testing::GoldenFile golden = testing::read_golden(directory_of(GetParam()) + "/golden.safetensors");
  const Checkpoint checkpoint = open_checkpoint(directory_of(GetParam()));
  auto model = make(*gpu, checkpoint, full_cache());
  const int64_t vocab = model->config().vocab;
  Rows rows(GetParam());
  for (int n : {1, 17, 300, 505, 2000}) {
    const std::string suffix = fmt::format("_{}", n);
    if (!golden.has("ids" + suffix)) continue;
    const auto& at = golden.at("rows" + suffix).i32;
    const std::span<const float> want = golden.at("logits" + suffix).f32;
    PrefillOptions options;
    options.logit_rows.assign(at.begin(), at.end());
    options.on_logits = [&, row = int64_t{0}](int64_t position, std::span<const float> logits) mutable {
      rows.add(difference(logits, want.subspan(row++ * vocab, vocab)), fmt::format("prompt {}, row {}", n, position));
    };
    model->prefill(golden.at("ids" + suffix).i32, options);
  }
}

// The last rows of the prompts as steps of a batch. With the type dynamic a step is no row of a longer prompt: each
// token is rotated by the length that it finds; the CPU engine is the reference then (DecodeAsTheCpu).
TEST_P(FamiliesGpuGolden, DecodeLogits) {
  const testing::GoldenFile golden = testing::read_golden(directory_of(GetParam()) + "/golden.safetensors");
  const Checkpoint checkpoint = open_checkpoint(directory_of(GetParam()));
  if (checkpoint.config.rope.type == "dynamic") GTEST_SKIP() << "DecodeAsTheCpu has it";
  auto model = make(*gpu, checkpoint, full_cache());
  const int64_t vocab = model->config().vocab;
  Rows rows(fmt::format("{}, decode", GetParam()));
  for (int n : {17, 300, 505, 2000}) {
    const std::string suffix = fmt::format("_{}", n);
    if (!golden.has("ids" + suffix)) continue;
    const auto& ids = golden.at("ids" + suffix).i32;
    const auto& at = golden.at("rows" + suffix).i32;
    const std::span<const float> want = golden.at("logits" + suffix).f32;
    Sequence sequence = prefill(*model, std::span(ids).first(n - 6), 6);
    for (int i = n - 6; i < n; ++i) {
      model->decode_step(sequence, ids[i]);
      for (size_t row = 0; row < at.size(); ++row)
        if (at[row] == i)
          rows.add(difference(sequence.logits, want.subspan(row * vocab, vocab)), fmt::format("prompt {}, {}", n, i));
    }
  }
}

// Steps that cross the window and the original positions, in graphs, against the CPU engine on the same tokens.
TEST_P(FamiliesGpuGolden, DecodeAsTheCpu) {
  const Checkpoint checkpoint = open_checkpoint(directory_of(GetParam()));
  const ModelConfig& c = checkpoint.config;
  auto on_cpu = make(cpu, checkpoint, full_cache()), on_gpu = make(*gpu, checkpoint, full_cache());
  Rows rows(fmt::format("{}, against the CPU", GetParam()));
  for (int64_t n : {55, 505}) {  // the windows are of 64 and 100 positions, the original ones 512
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < n + 60; ++i)
      tokens.push_back(static_cast<int32_t>(mix64(static_cast<uint64_t>(i) + 3) % static_cast<uint64_t>(c.vocab)));
    Sequence want = prefill(*on_cpu, std::span(tokens).first(n), 60);
    Sequence got = prefill(*on_gpu, std::span(tokens).first(n), 60),
             eager = prefill(*on_gpu, std::span(tokens).first(n), 60);
    auto batch = make_decode_batch(*on_gpu, {{&got, SamplingConfig{}, 0}});
    for (int64_t i = n; i < n + 60; ++i) {
      on_cpu->decode_step(want, tokens[i]);
      on_gpu->decode_step(eager, tokens[i]);
      batch->step({&tokens[i], 1});
      rows.add(difference(eager.logits, want.logits), fmt::format("prompt {}, step {}", n, i - n));
      ASSERT_EQ(batch->tokens()[0], sample(eager.logits, {}, 0, 0)) << "graph and eager step " << i - n;
    }
  }
}

// Members of different lengths: windows, and frequencies of the type dynamic, are each one's own.
TEST_F(FamiliesGpu, BatchesGiveWhatSingleSequencesGive) {
  for (const char* name : {"llama_dynamic", "mistral_window", "gemma2"}) {
    SCOPED_TRACE(name);
    const Checkpoint checkpoint = open_checkpoint(directory_of(name));
    auto model = make(*gpu, checkpoint, full_cache());
    std::vector<std::vector<int32_t>> want, got(3);
    std::vector<Sequence> together;
    for (int64_t n : {90, 500, 700}) {
      std::vector<int32_t> prompt;
      for (int64_t i = 0; i < n; ++i) prompt.push_back(static_cast<int32_t>(mix64(static_cast<uint64_t>(i + n)) % 250));
      Sequence alone = prefill(*model, prompt, 30);
      want.push_back(testing::continue_greedily(*model, alone, 30));
      together.push_back(prefill(*model, prompt, 30));
    }
    std::vector<DecodeBatch::Member> members;
    for (Sequence& s : together) members.push_back({&s, SamplingConfig{}, 0});
    auto batch = make_decode_batch(*model, members);
    for (int step = 0; step < 30; ++step) {
      const std::vector<int32_t> tokens(batch->tokens().begin(), batch->tokens().end());
      for (size_t i = 0; i < 3; ++i) got[i].push_back(tokens[i]);
      if (step < 29) batch->step(tokens);
    }
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(got[i], want[i]) << "member " << i;
  }
}

class FamiliesGpuEviction : public FamiliesGpu, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, FamiliesGpuEviction,
                         ::testing::Values("llama2", "llama32", "mistral3", "gemma_2b", "qwen25",
                                           "mistral_window", "gemma2"),
                         [](const auto& info) { return std::string(info.param); });

// The CPU engine is tested against the formulas on the same models (family_eviction_test).
TEST_P(FamiliesGpuEviction, KeepsWhatTheCpuKeeps) {
  const Checkpoint checkpoint = open_checkpoint(directory_of(GetParam()));
  const testing::GoldenFile golden = testing::read_golden(directory_of(GetParam()) + "/golden.safetensors");
  const auto& ids = golden.at("ids_2000").i32;
  for (Granularity granularity : {Granularity::kv_head, Granularity::query_head}) {
    CacheConfig cache;
    cache.budget.tokens = 300;
    cache.window = 16;
    cache.beta = 20.0;
    cache.granularity = granularity;
    auto on_cpu = make(cpu, checkpoint, cache), on_gpu = make(*gpu, checkpoint, cache);
    Sequence want = prefill(*on_cpu, std::span(ids).first(1000), 8);
    Sequence got = prefill(*on_gpu, std::span(ids).first(1000), 8);
    EXPECT_EQ(got.report.kept_counts, want.report.kept_counts);
    const double index = testing::jaccard(testing::gather_kept(grid.world(), got.cache, 0),
                                          testing::gather_kept(grid.world(), want.cache, 0));
    printf("%s, granularity %d: Jaccard index of the kept sets %.4f\n", GetParam(), static_cast<int>(granularity),
           index);
    EXPECT_GT(index, testing::kJaccardBf16Random);
    for (int64_t i = 1000; i < 1008; ++i) on_gpu->decode_step(got, ids[i]);
    for (float x : got.logits) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST_F(FamiliesGpu, HeadsTooSmallAreRefused) {
  const Checkpoint checkpoint = open_checkpoint(directory_of("qwen2"));
  try {
    make(*gpu, checkpoint, full_cache());
    FAIL() << "no error";
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("a head size of 8 on a GPU"), std::string::npos) << e.what();
  }
}

// Attention alone, with windows and soft-caps, against double precision on the same bf16 values.
struct AttentionCase {
  int64_t Hq, Hkv, d, L, window;
  double cap;
};
class FamiliesGpuAttention : public FamiliesGpu, public ::testing::WithParamInterface<AttentionCase> {};
INSTANTIATE_TEST_SUITE_P(
    Cases, FamiliesGpuAttention,
    ::testing::Values(AttentionCase{4, 2, 64, 700, 100, 0.0}, AttentionCase{4, 1, 128, 1500, 128, 0.0},
                      AttentionCase{2, 1, 256, 700, 129, 0.0}, AttentionCase{2, 2, 128, 9500, 4096, 0.0},
                      AttentionCase{2, 1, 128, 17500, 1000, 0.0}, AttentionCase{4, 2, 64, 700, 0, 5.0},
                      AttentionCase{2, 1, 256, 700, 0, 5.0}, AttentionCase{2, 1, 256, 700, 64, 5.0},
                      AttentionCase{4, 2, 32, 2000, 64, 5.0}, AttentionCase{4, 2, 16, 300, 1, 0.0}),
    [](const auto& info) {
      const AttentionCase& c = info.param;
      return fmt::format("d{}_L{}_window{}{}", c.d, c.L, c.window, c.cap > 0.0 ? "_capped" : "");
    });

// Random bf16 values: as the device has them, and exactly the same in double precision.
struct Values {
  Values(Context& ctx, int64_t rows, int64_t cols, uint64_t seed) : exact(static_cast<size_t>(rows * cols)) {
    std::vector<bf16> rounded;
    for (size_t i = 0; i < exact.size(); ++i) {
      const auto bits = static_cast<double>(mix64(i * 1000003 + seed) % 20001);
      rounded.push_back(to_bf16(static_cast<float>(bits / 5000.0 - 2.0)));
      exact[i] = to_float(rounded.back());
    }
    device = ctx.to_device(rounded.data(), DType::bf16, {rows, cols});
  }
  std::vector<double> exact;
  Tensor device;
};

std::vector<double> attend_row(const AttentionCase& c, const Values& q, const Values& k, const Values& v, int64_t row,
                               int64_t h) {
  const int64_t g = h / (c.Hq / c.Hkv), begin = c.window > 0 ? std::max<int64_t>(0, row + 1 - c.window) : 0;
  std::vector<double> weights, out(static_cast<size_t>(c.d), 0.0);
  double highest = -INFINITY, sum = 0.0;
  for (int64_t i = begin; i <= row; ++i) {
    double s = 0.0;
    for (int64_t j = 0; j < c.d; ++j) s += q.exact[(row * c.Hq + h) * c.d + j] * k.exact[(i * c.Hkv + g) * c.d + j];
    s /= std::sqrt(static_cast<double>(c.d));
    weights.push_back(c.cap > 0.0 ? c.cap * std::tanh(s / c.cap) : s);
    highest = std::max(highest, weights.back());
  }
  for (double& w : weights) sum += w = std::exp(w - highest);
  for (int64_t i = begin; i <= row; ++i)
    for (int64_t j = 0; j < c.d; ++j) out[j] += weights[i - begin] / sum * v.exact[(i * c.Hkv + g) * c.d + j];
  return out;
}

TEST_P(FamiliesGpuAttention, PrefillRows) {
  const AttentionCase c = GetParam();
  const Values q(*gpu, c.L, c.Hq * c.d, 1), k(*gpu, c.L, c.Hkv * c.d, 2), v(*gpu, c.L, c.Hkv * c.d, 3);
  Tensor out = gpu->empty(DType::bf16, {c.L, c.Hq * c.d});
  std::vector<int64_t> offsets, lengths(static_cast<size_t>(c.Hkv), c.L);
  for (int64_t g = 0; g < c.Hkv; ++g) offsets.push_back(g * c.d);
  const KvView kv{k.device.raw(), v.device.raw(), DType::bf16, c.Hkv, c.d, c.Hkv * c.d, offsets.data(), lengths.data()};
  const HeadLayout heads{c.Hq, c.Hkv, c.d, split_heads(c.Hq, c.Hkv, 1, 0)};
  // In two parts, as a rank has two chunks: the second one's rows begin in the middle of the prompt.
  const int64_t half = c.L / 2 / 128 * 128;
  for (const Range part : {Range{0, half}, Range{half, c.L}}) {
    PrefillAttention args;
    args.q = MatrixView(q.device).block(part.begin, part.size(), 0, c.Hq * c.d);
    args.out = MatrixView(out).block(part.begin, part.size(), 0, c.Hq * c.d);
    args.first_position = part.begin;
    args.scale = 1.0 / std::sqrt(static_cast<double>(c.d));
    args.sliding_window = c.window;
    args.softcap = c.cap;
    attention_prefill(*gpu, args, kv, heads);
  }
  const std::vector<bf16> got = gpu->to_host<bf16>(out);
  for (int64_t row = 0; row < c.L; row += row < 300 ? 1 : 97)
    for (int64_t h = 0; h < c.Hq; ++h) {
      const std::vector<double> want = attend_row(c, q, k, v, row, h);
      double wrong = 0.0, size = 0.0;
      for (int64_t j = 0; j < c.d; ++j) {
        const double x = to_float(got[(row * c.Hq + h) * c.d + j]);
        wrong += (x - want[j]) * (x - want[j]);
        size += want[j] * want[j];
      }
      ASSERT_LT(std::sqrt(wrong / size), 4 * testing::kOpBf16) << "row " << row << ", head " << h;
    }
}

}  // namespace
}  // namespace restkv
