// Prefills in chunks on every layout of the ranks at hand: the bits of the prefill at once, with every kind of policy,
// in less memory.
#include <gtest/gtest.h>

#include <cmath>

#include "dist/base/error.h"
#include "kvcache/statistics/running_column_sums.h"
#include "model/families/family.h"
#include "model/prefill_chunks.h"
#include "model/weights/random_source.h"
#include "tests/model/exchange_formula.h"
#include "tests/model/run_model.h"
#include "tests/model/small_models.h"

namespace restkv {
namespace {

using testing::random_prompt;
using testing::tiny_config;

CacheConfig cache_of(const std::string& policy, int64_t budget = 100) {
  CacheConfig cache;
  cache.policy = policy;
  if (policy == "full") return cache;
  cache.budget.tokens = budget;
  cache.window = policy == "tova" ? 1 : 16;
  cache.beta = 20.0;
  if (policy != "restkv") cache.pooling = policy == "snapkv" ? Pooling::max : Pooling::none;
  return cache;
}

struct Outcome {
  std::vector<std::vector<float>> rows;  // logits of some rows, the last one last
  PrefillReport report;
  testing::KeptSet kept;
  int64_t peak = 0;  // of the prefill, beyond the weights
};

class Chunks : public ::testing::Test {
 protected:
  Outcome run(Transformer& model, const std::vector<int32_t>& prompt, int64_t chunk, bool host = false) {
    PrefillOptions options;
    options.chunk = chunk;
    options.host_residual = host;
    const auto L = static_cast<int64_t>(prompt.size());
    Outcome outcome;
    for (int64_t i = 0; i < 8; ++i)
      if (const int64_t row = i * L / 8; options.logit_rows.empty() || row > options.logit_rows.back())
        options.logit_rows.push_back(row);
    options.on_logits = [&](int64_t, std::span<const float> logits) {
      outcome.rows.emplace_back(logits.begin(), logits.end());
    };
    const int64_t before = ctx.memory().current();
    ctx.memory().reset_peak();
    const Sequence sequence = model.prefill(prompt, options);
    outcome.peak = ctx.memory().peak() - before;
    outcome.rows.push_back(sequence.logits);
    outcome.report = sequence.report;
    const CacheConfig& cache = model.cache_config();
    const HeadRange& share = model.plan().decode.heads.local;
    outcome.kept = testing::gather_kept(model.grid().control(), sequence.cache,
                                        cache.granularity == Granularity::query_head ? share.q.begin : share.kv.begin);
    return outcome;
  }

  // Chunks of every size that cuts differently, against the prompt at once. The first with the residual stream in host
  // memory.
  void compare(Transformer& model, int64_t L, const std::vector<int64_t>& chunks) {
    const auto prompt = random_prompt(L, model.config().vocab);
    const Outcome want = run(model, prompt, 0);
    for (size_t i = 0; i < chunks.size(); ++i) {
      const int64_t chunk = chunks[i];
      const bool host = i == 0;
      SCOPED_TRACE(fmt::format("policy {}, {} tokens, layout {}x{}, chunks of {}{}", model.cache_config().policy, L,
                               model.grid().sequence_size(), model.grid().tensor_size(), chunk,
                               host ? ", residual stream in host memory" : ""));
      const Outcome got = run(model, prompt, chunk, host);
      EXPECT_EQ(got.rows, want.rows);
      EXPECT_EQ(got.kept, want.kept);
      EXPECT_EQ(got.report.kept_hash, want.report.kept_hash);
      EXPECT_EQ(got.report.kept_counts, want.report.kept_counts);
      EXPECT_EQ(got.report.exchange_bytes,
                testing::exchange_bytes_by_formula(model.grid(), model.config(), L, ContextPlan::allgather,
                                                   ctx.device(), DType::f32, chunk));
      EXPECT_EQ(got.report.evict_bytes, want.report.evict_bytes);
    }
  }

  void compare_on_all_layouts(const ModelConfig& config, const CacheConfig& cache, DecodeMode mode,
                              const std::vector<int64_t>& lengths, const std::vector<int64_t>& chunks) {
    for (auto [sequence, tensor] : testing::all_layouts()) {
      if (!testing::layout_allowed(config, tensor)) continue;
      ProcessGrid grid = testing::make_grid(sequence, tensor);
      Transformer model(ctx, grid, config, RandomSource(config, 17, 3.0), cache, {.decode = mode});
      for (const int64_t L : lengths) compare(model, L, chunks);
    }
  }

  Context ctx{Context::Options{Device::cpu, 1}};
};

class ChunksOf : public Chunks, public ::testing::WithParamInterface<const char*> {};

TEST_P(ChunksOf, GiveTheBitsOfTheWholePrompt) {
  compare_on_all_layouts(tiny_config(12, 4), cache_of(GetParam()), DecodeMode::sequence, {1290}, {128, 384, 128, 2048});
}

INSTANTIATE_TEST_SUITE_P(Policies, ChunksOf,
                         ::testing::Values("full", "restkv", "snapkv", "h2o", "tova", "streaming_llm", "key_norm"),
                         [](const auto& info) { return std::string(info.param); });

// Chunks without rows and of one row; a window that spans chunks; kept rows that move to other ranks.
TEST_F(Chunks, OfShortPromptsAndWideWindows) {
  CacheConfig cache = cache_of("restkv", 300);
  compare_on_all_layouts(tiny_config(8, 2), cache, DecodeMode::tensor, {1, 129, 257}, {128});
  cache.window = 200;
  compare_on_all_layouts(tiny_config(8, 2), cache, DecodeMode::tensor, {700}, {128, 128, 256});
  cache.granularity = Granularity::query_head;
  compare_on_all_layouts(tiny_config(8, 2), cache, DecodeMode::tensor, {700}, {128});
}

// Biases, norms behind the projections (whose sums are finished late), soft-capped scores, a sliding window.
TEST_F(Chunks, OfOtherFamilies) {
  ModelConfig qwen = tiny_config(14, 2), gemma = tiny_config(4, 1), windowed = tiny_config(12, 4);
  qwen.family = "qwen2";
  qwen.traits = kQwen2Traits;
  gemma.family = "gemma2";
  gemma.traits = kGemmaTraits;
  gemma.traits.output_norms = true;
  gemma.traits.attention_softcap = 50.0;
  windowed.family = "mistral";
  windowed.traits.sliding_window = 100;
  compare_on_all_layouts(qwen, cache_of("restkv"), DecodeMode::sequence, {1000}, {128});
  compare_on_all_layouts(gemma, cache_of("full"), DecodeMode::sequence, {1000}, {128, 128, 256});
  compare_on_all_layouts(windowed, cache_of("full"), DecodeMode::sequence, {1000}, {128});
}

// Of one rank: what a token more costs is the residual stream, one layer's K/V, its position, and its place in the
// cache. At once it costs its queries and rotations as well.
TEST_F(Chunks, BoundTheActivations) {
  ModelConfig config = tiny_config(12, 4);
  ProcessGrid alone(make_self_communicator(), 1, 1);
  Transformer model(ctx, alone, config, RandomSource(config, 17, 3.0), cache_of("full"), {});
  constexpr int64_t kShort = 2048, kLong = 4096, kChunk = 256;
  const int64_t kv = 2 * config.Hkv * config.d * 4, row = config.hidden * 4 + kv + 8;
  const int64_t kept = config.layers * (kv + config.Hkv * static_cast<int64_t>(sizeof(int32_t)));
  auto per_token = [&](int64_t chunk) {
    const int64_t less = run(model, random_prompt(kShort, config.vocab), chunk).peak;
    const int64_t more = run(model, random_prompt(kLong, config.vocab), chunk).peak;
    return static_cast<double>(more - less) / static_cast<double>(kLong - kShort);
  };
  const auto grows = static_cast<double>(row + kept), beside = static_cast<double>((config.Hq + 1) * config.d * 4);
  EXPECT_NEAR(per_token(kChunk), grows, 0.02 * grows);
  EXPECT_NEAR(per_token(0), grows + beside, 0.02 * grows);
}

TEST_F(Chunks, AreSmallerWithEveryPolicyAndLayout) {
  // Wide queries and MLP, so that they are most of the memory.
  ModelConfig config = tiny_config(12, 2);
  config.intermediate = 600;
  for (auto [sequence, tensor] : testing::all_layouts())
    for (const char* policy : {"streaming_llm", "h2o"}) {
      if (!testing::layout_allowed(config, tensor)) continue;
      ProcessGrid grid = testing::make_grid(sequence, tensor);
      Transformer model(ctx, grid, config, RandomSource(config, 17, 3.0), cache_of(policy), {});
      const auto prompt = random_prompt(3000, config.vocab);
      const int64_t whole = run(model, prompt, 0).peak, chunked = run(model, prompt, 128).peak;
      EXPECT_LT(chunked, whole * 7 / 10) << policy << ", layout " << sequence << "x" << tensor;
    }
}

TEST_F(Chunks, CutPartsEvenlyAtTiles) {
  for (int ranks : {1, 2, 3, 5})
    for (int64_t L : {1, 128, 129, 1290, 8200, 40000})
      for (int64_t chunk : {0, 128, 384, 4096, 8192})
        for (int rank = 0; rank < ranks; ++rank) {
          const SequencePartition partition(L, ranks);
          int64_t next = 0;
          for (const PrefillPart& piece : prefill_chunks(partition, rank, chunk)) {
            ASSERT_EQ(piece.first, next);
            ASSERT_GT(piece.rows, 0);
            ASSERT_TRUE(chunk == 0 || piece.rows <= chunk) << piece.rows;
            ASSERT_EQ(piece.position, partition.global_position(rank, piece.first));
            ASSERT_EQ(piece.position % 128, 0);
            ASSERT_EQ(partition.global_position(rank, piece.first + piece.rows - 1), piece.position + piece.rows - 1);
            next += piece.rows;
          }
          ASSERT_EQ(next, partition.local_size(rank));
        }
  EXPECT_EQ(prefill_chunks(SequencePartition(8200, 1), 0, 8192).front().rows, 4224);  // not 8192 and 8
}

TEST_F(Chunks, RefuseWhatDoesNotFit) {
  const int ranks = testing::mpi_runtime().size();
  ModelConfig config = tiny_config(4, 2);
  ProcessGrid grid = testing::make_grid(ranks, 1);
  const auto prompt = random_prompt(300, config.vocab);
  auto message_of = [&](ContextPlan plan, int64_t chunk) -> std::string {
    Transformer model(ctx, grid, config, RandomSource(config, 1), cache_of("full"), {.context = plan});
    PrefillOptions options;
    options.chunk = chunk;
    try {
      model.prefill(prompt, options);
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  };
  for (int64_t chunk : {-128, 1, 100, 200}) {
    const std::string text = message_of(ContextPlan::allgather, chunk);
    EXPECT_NE(text.find(fmt::format("prefill.chunk: found {}, expected 0", chunk)), std::string::npos) << text;
    EXPECT_NE(text.find("multiple of 128"), std::string::npos) << text;
  }
  PrefillOptions whole;
  whole.host_residual = true;
  Transformer model(ctx, grid, config, RandomSource(config, 1), cache_of("full"), {});
  EXPECT_THROW(model.prefill(prompt, whole), InputError);
  const std::string ring = message_of(ContextPlan::ring, 128);
  if (ranks == 1)
    EXPECT_EQ(ring, "");
  else
    EXPECT_NE(ring.find("parallel.context: found ring, allowed with prefill.chunk: allgather"), std::string::npos);
}

}  // namespace
}  // namespace restkv
