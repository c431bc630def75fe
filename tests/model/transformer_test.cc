// Whole models with random weights on every layout of the ranks at hand: equal text, equal kept sets, decode equal to
// prefill, bytes counted, bad input refused.
#include "model/transformer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "dist/base/error.h"
#include "model/families/family.h"
#include "model/ring_schedule.h"
#include "model/weights/random_source.h"
#include "tests/model/exchange_formula.h"
#include "tests/model/run_model.h"
#include "tests/model/small_models.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

using testing::random_prompt;
using testing::tiny_config;

ModelConfig qwen_config() {
  ModelConfig config = tiny_config(14, 2);
  config.family = "qwen2";
  config.traits = kQwen2Traits;
  config.rope.type = "yarn";
  config.rope.factor = 4.0;
  config.rope.original_max_positions = 256;
  config.rope.attention_factor = 0.1 * std::log(4.0) + 1.0;
  return config;
}

ModelConfig gemma_config() {
  ModelConfig config = tiny_config(4, 1);
  config.family = "gemma";
  config.d = 32;
  config.traits = kGemmaTraits;
  return config;
}

ModelConfig window_config() {
  ModelConfig config = tiny_config(12, 4);
  config.family = "mistral";
  config.traits.sliding_window = 100;
  return config;
}

CacheConfig restkv_cache(int64_t budget, Granularity granularity) {
  CacheConfig cache;
  cache.budget.tokens = budget;
  cache.window = 16;
  cache.beta = 20.0;
  cache.granularity = granularity;
  return cache;
}

struct Outcome {
  std::vector<int32_t> text;
  std::vector<float> logits;  // of the prompt's last position
  PrefillReport report;
  testing::KeptSet kept;
};

Outcome run(const ProcessGrid& grid, const ModelConfig& config, const CacheConfig& cache, DecodeMode mode,
            const std::vector<int32_t>& prompt, int steps, ContextPlan plan = ContextPlan::allgather) {
  Context ctx({Device::cpu, 1});
  // A large gain keeps attention from being flat, so that what is evicted matters.
  RandomSource source(config, 17, 3.0);
  Transformer model(ctx, grid, config, source, cache, {.decode = mode, .context = plan});
  PrefillOptions options;
  options.max_new_tokens = steps;
  Sequence sequence = model.prefill(prompt, options);
  Outcome outcome;
  outcome.report = sequence.report;
  outcome.logits = sequence.logits;
  const HeadRange& share = model.plan().decode.heads.local;
  outcome.kept = testing::gather_kept(grid.world(), sequence.cache,
                                      cache.granularity == Granularity::query_head ? share.q.begin : share.kv.begin);
  outcome.text = testing::continue_greedily(model, sequence, steps);
  return outcome;
}

double difference(const std::vector<float>& got, const std::vector<float>& want) {
  double scale = 0.0, worst = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    scale = std::max(scale, std::abs(double(want[i])));
    worst = std::max(worst, std::abs(double(got[i]) - want[i]));
  }
  return worst / scale;
}

class Layouts : public ::testing::TestWithParam<std::tuple<const char*, Granularity>> {};

TEST_P(Layouts, SameTextSameHashSameKeptSets) {
  const std::string family = std::get<0>(GetParam());
  ModelConfig config = family == "gemma" ? gemma_config() : family == "qwen2" ? qwen_config() : tiny_config(12, 4);
  CacheConfig cache = restkv_cache(100, std::get<1>(GetParam()));
  auto prompt = random_prompt(1000, config.vocab);
  ProcessGrid alone(make_self_communicator(), 1, 1);
  Outcome want = run(alone, config, cache, DecodeMode::tensor, prompt, 12);
  ASSERT_TRUE(want.report.evicted);
  for (auto [sequence_size, tensor_size] : testing::all_layouts())
    for (auto [mode, plan] : {std::pair{DecodeMode::tensor, ContextPlan::allgather},
                              {DecodeMode::sequence, ContextPlan::allgather},
                              {DecodeMode::tensor, ContextPlan::ring}}) {
      if (!testing::layout_allowed(config, tensor_size)) continue;
      SCOPED_TRACE(fmt::format("layout {}x{}, decode mode {}, {}", sequence_size, tensor_size, static_cast<int>(mode),
                               name_of(plan)));
      ProcessGrid grid = testing::make_grid(sequence_size, tensor_size);
      Outcome got = run(grid, config, cache, mode, prompt, 12, plan);
      EXPECT_EQ(got.text, want.text);
      EXPECT_EQ(got.report.kept_counts, want.report.kept_counts);
      EXPECT_LT(difference(got.logits, want.logits), testing::kLogitsF32);
      const bool same_bits = tensor_size == 1 && (plan == ContextPlan::allgather || sequence_size == 1);
      if (same_bits) {
        EXPECT_EQ(got.report.kept_hash, want.report.kept_hash);
        EXPECT_EQ(got.kept, want.kept);
        EXPECT_EQ(got.logits, want.logits);
      } else {
        EXPECT_GE(testing::jaccard(got.kept, want.kept), testing::kJaccardTensor);
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Granularities, Layouts,
                         ::testing::Combine(::testing::Values("llama", "gemma", "qwen2"),
                                            ::testing::Values(Granularity::kv_head, Granularity::query_head)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) == Granularity::kv_head ? "_kv_head" : "_query_head");
                         });

// Prompts of every kind of cut: chunks without rows, of one row, of uneven blocks, several slices.
TEST(Transformer, ContextPlansAgree) {
  ModelConfig config = tiny_config(8, 2);
  for (int64_t L : {1, 5, 129, 700, 1290}) {
    CacheConfig cache = restkv_cache(100, Granularity::kv_head);
    auto prompt = random_prompt(L, config.vocab);
    ProcessGrid alone(make_self_communicator(), 1, 1);
    Outcome want = run(alone, config, cache, DecodeMode::tensor, prompt, 3);
    for (auto [sequence_size, tensor_size] : testing::all_layouts())
      for (ContextPlan plan : {ContextPlan::allgather, ContextPlan::ring}) {
        if (!testing::layout_allowed(config, tensor_size)) continue;
        SCOPED_TRACE(fmt::format("{} tokens, layout {}x{}, {}", L, sequence_size, tensor_size, name_of(plan)));
        ProcessGrid grid = testing::make_grid(sequence_size, tensor_size);
        Outcome got = run(grid, config, cache, DecodeMode::tensor, prompt, 3, plan);
        EXPECT_EQ(got.text, want.text);
        EXPECT_LT(difference(got.logits, want.logits), testing::kLogitsF32);
        if (tensor_size == 1 && plan == ContextPlan::allgather) {
          EXPECT_EQ(got.logits, want.logits);
        }
      }
  }
}

TEST(Transformer, ExchangedBytesFollowTheFormula) {
  ModelConfig config = tiny_config(12, 4);
  auto prompt = random_prompt(1290, config.vocab);
  for (auto [sequence_size, tensor_size] : testing::all_layouts())
    for (ContextPlan plan : {ContextPlan::allgather, ContextPlan::ring}) {
      if (!testing::layout_allowed(config, tensor_size)) continue;
      SCOPED_TRACE(fmt::format("layout {}x{}, {}", sequence_size, tensor_size, name_of(plan)));
      ProcessGrid grid = testing::make_grid(sequence_size, tensor_size);
      Outcome got = run(grid, config, restkv_cache(64, Granularity::kv_head), DecodeMode::sequence, prompt, 1, plan);
      EXPECT_EQ(got.report.exchange_bytes,
                testing::exchange_bytes_by_formula(grid, config, 1290, plan, Device::cpu, DType::f32));
    }
}

// Every query sees every key up to its own, once, in whatever step.
TEST(RingSchedule, CoversTheCausalMaskOnce) {
  for (int ranks : {1, 2, 3, 4, 7})
    for (int64_t L : {1, 100, 129, 1000, 2049, 5000})
      for (int rank = 0; rank < ranks; ++rank) {
        SequencePartition partition(L, ranks);
        auto schedule = ring_schedule(partition, rank);
        ASSERT_EQ(schedule.size(), static_cast<size_t>(ranks));
        const auto chunks = partition.chunks_of(rank);
        for (int half : {0, 1})
          for (int64_t row : {int64_t{0}, chunks[half].size() / 2, chunks[half].size() - 1}) {
            if (chunks[half].empty()) continue;
            std::vector<int> seen(static_cast<size_t>(L), 0);
            int first = 0, last = 0, blocks = 0;
            for (int step = 0; step < ranks; ++step)
              for (const RingBlock& block : schedule[static_cast<size_t>(step)]) {
                if (block.half != half) continue;
                EXPECT_EQ(block.first, blocks == 0);
                ++blocks, first += block.first, last += block.last;
                const int source = ring_source(rank, ranks, step);
                for (int64_t i = 0; i < std::min(block.keys, block.first_position + row + 1); ++i)
                  ++seen[static_cast<size_t>(partition.global_position(source, i))];
              }
            EXPECT_EQ(first, 1);
            EXPECT_EQ(last, 1);
            for (int64_t i = 0; i < L; ++i)
              ASSERT_EQ(seen[static_cast<size_t>(i)], i <= chunks[half].begin + row ? 1 : 0)
                  << ranks << " ranks, L " << L << ", rank " << rank << ", row " << row << " of half " << half;
          }
      }
}

TEST(Transformer, RingRefusesSlidingWindows) {
  if (testing::mpi_runtime().size() == 1) GTEST_SKIP() << "one rank has no ring";
  ProcessGrid grid = testing::make_grid(testing::mpi_runtime().size(), 1);
  CacheConfig cache;
  cache.policy = "full";
  auto prompt = random_prompt(300, window_config().vocab);
  EXPECT_THROW(run(grid, window_config(), cache, DecodeMode::tensor, prompt, 1, ContextPlan::ring), InputError);
  ModelConfig within = window_config();
  within.traits.sliding_window = 320;
  EXPECT_EQ(run(grid, within, cache, DecodeMode::tensor, prompt, 2, ContextPlan::ring).text,
            run(grid, within, cache, DecodeMode::tensor, prompt, 2).text);
}

TEST(Transformer, ReportCountsWhatIsKept) {
  ModelConfig config = tiny_config(4, 2);
  ProcessGrid grid = testing::make_grid(testing::mpi_runtime().size(), 1);
  auto prompt = random_prompt(700, config.vocab);
  Outcome kept = run(grid, config, restkv_cache(64, Granularity::kv_head), DecodeMode::sequence, prompt, 1);
  EXPECT_TRUE(kept.report.evicted);
  EXPECT_EQ(kept.report.budget, 64);
  for (const auto& layer : kept.report.kept_counts)
    for (int64_t n : layer) EXPECT_EQ(n, 64);
  EXPECT_EQ(kept.report.cache_bytes, 3 * 2 * 64 * 16 * 4 * 2);
  EXPECT_EQ(kept.report.full_cache_bytes, 3 * 2 * 700 * 16 * 4 * 2);

  // Not longer than the budget: kept whole, and the report says so.
  Outcome whole = run(grid, config, restkv_cache(700, Granularity::kv_head), DecodeMode::sequence, prompt, 1);
  EXPECT_FALSE(whole.report.evicted);
  EXPECT_NE(whole.report.reason.find("700"), std::string::npos);
  EXPECT_EQ(whole.report.cache_bytes, whole.report.full_cache_bytes);
  EXPECT_EQ(whole.report.kept_counts[2][1], 700);
}

// One transformer that changes its policy keeps what one made with that policy keeps, and R_h is held only for it.
TEST(Transformer, SetCacheIsAsGoodAsAnother) {
  ModelConfig config = tiny_config(12, 4);
  ProcessGrid alone(make_self_communicator(), 1, 1);
  Context ctx({Device::cpu, 1});
  RandomSource source(config, 17, 3.0);
  auto prompt = random_prompt(600, config.vocab);
  CacheConfig full, restkv = restkv_cache(100, Granularity::kv_head);
  full.policy = "full";
  Transformer model(ctx, alone, config, source, full, {});
  int64_t without = ctx.memory().current();
  EXPECT_EQ(model.prefill(prompt).report.cache_bytes, model.prefill(prompt).report.full_cache_bytes);
  for (int64_t budget : {100, 200}) {
    restkv.budget.tokens = budget;
    model.set_cache(restkv);
    Outcome want = run(alone, config, restkv, DecodeMode::tensor, prompt, 4);
    Sequence sequence = model.prefill(prompt, {4, {}, {}, {}});
    EXPECT_EQ(sequence.report.kept_hash, want.report.kept_hash);
    EXPECT_EQ(sequence.report.budget, budget);
    EXPECT_EQ(testing::continue_greedily(model, sequence, 4), want.text);
  }
  EXPECT_GT(ctx.memory().current(), without);
  model.set_cache(full);
  EXPECT_FALSE(model.prefill(prompt).report.evicted);
  EXPECT_EQ(ctx.memory().current(), without);
  full.policy = "no such policy";
  EXPECT_THROW(model.set_cache(full), InputError);
}

class DecodeAndPrefill : public ::testing::TestWithParam<const char*> {};

TEST_P(DecodeAndPrefill, Agree) {
  const std::string family = GetParam();
  ModelConfig config = family == "gemma"     ? gemma_config()
                       : family == "qwen2"   ? qwen_config()
                       : family == "mistral" ? window_config()
                                             : tiny_config(12, 4);
  CacheConfig cache;
  cache.policy = "full";
  auto tokens = random_prompt(330, config.vocab);
  for (auto [sequence_size, tensor_size] : testing::all_layouts())
    for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
      if (!testing::layout_allowed(config, tensor_size)) continue;
      ProcessGrid grid = testing::make_grid(sequence_size, tensor_size);
      Context ctx({Device::cpu, 1});
      RandomSource source(config, 17, 3.0);
      Transformer model(ctx, grid, config, source, cache, {mode, {}});
      PrefillOptions options;
      options.max_new_tokens = 30;
      // Teacher forcing: 300 tokens at once and 30 one by one, against 330 at once.
      Sequence stepped = model.prefill(std::span(tokens).first(300), options);
      for (size_t i = 300; i < tokens.size(); ++i) model.decode_step(stepped, tokens[i]);
      Sequence whole = model.prefill(tokens);
      double scale = 0.0, worst = 0.0;
      for (size_t i = 0; i < whole.logits.size(); ++i) {
        scale = std::max(scale, std::abs(double(whole.logits[i])));
        worst = std::max(worst, std::abs(double(whole.logits[i]) - stepped.logits[i]));
      }
      EXPECT_LT(worst / scale, testing::kLogitsF32);
      EXPECT_EQ(stepped.length, 330);
    }
}

INSTANTIATE_TEST_SUITE_P(Families, DecodeAndPrefill, ::testing::Values("llama", "gemma", "qwen2", "mistral"),
                         [](const auto& info) { return std::string(info.param); });

std::string refused(const ModelConfig& config, const CacheConfig& cache, std::span<const int32_t> prompt) {
  ProcessGrid alone(make_self_communicator(), 1, 1);
  try {
    run(alone, config, cache, DecodeMode::tensor, {prompt.begin(), prompt.end()}, 2);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

// Within the window a model with one is a model without. Beyond it (family_eviction_test has the kept sets) what knows
// no windows is refused.
TEST(Transformer, EvictionAndSlidingWindows) {
  ProcessGrid alone(make_self_communicator(), 1, 1);
  ModelConfig config = window_config(), without = window_config();
  config.traits.sliding_window = 320;
  without.traits.sliding_window = 0;
  CacheConfig cache = restkv_cache(100, Granularity::kv_head);
  auto prompt = random_prompt(300, config.vocab);
  Outcome got = run(alone, config, cache, DecodeMode::tensor, prompt, 20);
  Outcome want = run(alone, without, cache, DecodeMode::tensor, prompt, 20);
  EXPECT_TRUE(got.report.evicted);
  EXPECT_EQ(got.text, want.text);
  EXPECT_EQ(got.kept, want.kept);
  config.traits.sliding_window = 60;
  got = run(alone, config, cache, DecodeMode::tensor, prompt, 20);
  EXPECT_TRUE(got.report.evicted);
  EXPECT_NE(got.kept, want.kept);
  cache.decode.every = 1;
  EXPECT_EQ(refused(config, cache, prompt).find("decode.every: found 1; in a model of the family"), 0u);
  cache.decode.every = 0;
  cache.policy = "h2o";
  cache.pooling = Pooling::none;
  EXPECT_EQ(refused(config, cache, prompt).find("cache.policy h2o in a model of the family"), 0u);
  EXPECT_EQ(refused(without, cache, prompt), "");
  cache.policy = "full";
  EXPECT_NE(run(alone, window_config(), cache, DecodeMode::tensor, prompt, 20).text,
            run(alone, without, cache, DecodeMode::tensor, prompt, 20).text);
}

TEST(Transformer, RefusesBadPrompts) {
  ModelConfig config = tiny_config(4, 2);
  ProcessGrid grid = testing::make_grid(testing::mpi_runtime().size(), 1);
  Context ctx({Device::cpu, 1});
  RandomSource source(config, 1);
  CacheConfig cache;
  cache.policy = "full";
  Transformer model(ctx, grid, config, source, cache, {});
  auto message_of = [&](const std::vector<int32_t>& tokens, int64_t new_tokens) -> std::string {
    PrefillOptions options;
    options.max_new_tokens = new_tokens;
    try {
      model.prefill(tokens, options);
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(message_of({}, 0).find("no tokens"), std::string::npos);
  EXPECT_NE(message_of({1, 131}, 0).find("131"), std::string::npos);
  EXPECT_NE(message_of({-1}, 0).find("-1"), std::string::npos);
  std::string too_long = message_of(std::vector<int32_t>(8000, 1), 193);
  EXPECT_NE(too_long.find("8000"), std::string::npos);
  EXPECT_NE(too_long.find("8192"), std::string::npos);
}

TEST(Transformer, RefusesTensorSizesThatDoNotDivideTheHeads) {
  ModelConfig config = tiny_config(9, 3);
  EXPECT_EQ(allowed_tensor_sizes(config), (std::vector<int>{1, 3, 9}));
  try {
    make_shard_plan(config, 1, 2, 0, 0, DecodeMode::tensor);
    FAIL();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("allowed: 1, 3, 9"), std::string::npos) << e.what();
  }
}

TEST(ShardPlan, DecodeSharesCoverEverythingOnce) {
  for (auto [Hq, Hkv] : {std::pair<int64_t, int64_t>{9, 3}, {8, 2}, {4, 1}, {12, 4}})
    for (int tensor : allowed_tensor_sizes(tiny_config(Hq, Hkv)))
      for (int sequence : {1, 2, 3, 5, 16}) {
        std::vector<int> q(Hq, 0), mlp(150, 0), vocab(131, 0);
        for (int s = 0; s < sequence; ++s)
          for (int t = 0; t < tensor; ++t) {
            Shard share = make_shard_plan(tiny_config(Hq, Hkv), sequence, tensor, s, t, DecodeMode::tensor).decode;
            for (int64_t h = share.heads.local.q.begin; h < share.heads.local.q.end; ++h) {
              ++q[h];
              EXPECT_TRUE(share.heads.local.kv.contains(h / (Hq / Hkv)));
            }
            for (int64_t i = share.mlp.begin; i < share.mlp.end; ++i) ++mlp[i];
            for (int64_t i = share.vocab.begin; i < share.vocab.end; ++i) ++vocab[i];
          }
        for (const auto& counts : {q, mlp, vocab})
          for (int n : counts) ASSERT_EQ(n, 1);
      }
}

}  // namespace
}  // namespace restkv
