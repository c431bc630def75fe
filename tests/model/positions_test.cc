// Positions in the cache: slots over ranks by hand, logits against a model written out token by token, the same text on
// every layout, and texts longer than the model's positions.
#include "kvcache/positions.h"

#include <gtest/gtest.h>

#include "dist/base/error.h"
#include "kvcache/slots.h"
#include "model/weights/random_source.h"
#include "tests/model/reference_model.h"
#include "tests/model/run_model.h"
#include "tests/model/small_models.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

// Two heads over all ranks: positions 3 i of head 0, dealt by their square, and of head 1 all on the last rank.
TEST(Slots, ByHand) {
  auto world = mpi_runtime().world(60);
  const int ranks = world->size(), rank = world->rank();
  Context ctx({Device::cpu, 1});
  KvCache cache(ctx, 1, 2, 4, DType::f32, true);
  std::vector<std::vector<int32_t>> rows(2);
  std::vector<int64_t> want;
  for (int32_t i = 0; i < 20; ++i) {
    if (i * i % ranks == rank) rows[0].push_back(3 * i), want.push_back(i);
    if (rank == ranks - 1 && i < 5) rows[1].push_back(i);
  }
  std::vector<float> k(60 * 4, 1.0f);
  std::vector<int64_t> positions(60);
  std::iota(positions.begin(), positions.end(), 0);
  cache.store(0, MatrixView(k.data(), 60, 4), MatrixView(k.data(), 60, 4), 1, {0, 0},
              Tensor::view(positions.data(), DType::i64, {60}), KeptRows::from_host(ctx, rows), 1);
  auto slots = [&](int64_t head) {
    const KvView view = cache.view(0);
    const int32_t* first = view.slots + view.head_offset[head] / view.row_stride;
    return std::vector<int64_t>(first, first + view.lengths[head]);
  };
  number_slots(ctx, *world, cache, 0, 0);
  EXPECT_EQ(slots(0), want);
  EXPECT_EQ(slots(1), (rank == ranks - 1 ? std::vector<int64_t>{0, 1, 2, 3, 4} : std::vector<int64_t>{}));
  EXPECT_EQ(cache.next_slot(0, 0), 20);
  EXPECT_EQ(cache.next_slot(0, 1), 5);

  // A new token on rank 0; storage grows and moves; a copy goes on by itself.
  KvCache copy = cache.clone();
  const std::vector<int64_t> source = {0, 0};
  for (int64_t position : {60, 61}) {
    if (rank == 0) cache.append(0, k.data(), k.data(), source.data(), position), want.push_back(position - 40);
    cache.count_new_row(0);
  }
  EXPECT_EQ(slots(0), want);
  EXPECT_EQ(cache.next_slot(0, 0), 22);
  EXPECT_EQ(copy.next_slot(0, 0), 20);

  // Without its first ten rows all move down.
  std::vector<int32_t> left;
  std::vector<int64_t> moved;
  const std::vector<int64_t> held = slots(0);
  for (size_t i = 0; i < held.size(); ++i)
    if (held[i] >= 10) left.push_back(static_cast<int32_t>(i)), moved.push_back(held[i] - 10);
  cache.retain(0, 0, left);
  number_slots(ctx, *world, cache, 0, 0);
  EXPECT_EQ(slots(0), moved);
  EXPECT_EQ(cache.next_slot(0, 0), 12);
  EXPECT_EQ(cache.next_slot(0, 1), 7);
}

CacheConfig cache_of(const std::string& policy, int64_t every) {
  CacheConfig cache;
  cache.policy = policy;
  cache.budget.tokens = 60;
  cache.window = policy == "tova" || policy == "lacache" ? 1 : 16;
  cache.beta = 1.0;
  if (policy == "snapkv") cache.pooling = Pooling::average;
  cache.decode.every = every;
  cache.positions = Positions::cache;
  return cache;
}

std::vector<CacheConfig> cases() {
  std::vector<CacheConfig> all = {cache_of("full", 0),    cache_of("streaming_llm", 0), cache_of("streaming_llm", 1),
                                  cache_of("lacache", 2), cache_of("restkv", 0),        cache_of("restkv", 5),
                                  cache_of("h2o", 3)};
  all.push_back(cache_of("snapkv", 3));
  all.back().allocation = Allocation::ada;  // heads of different lengths
  all.push_back(cache_of("restkv", 0));
  all.back().granularity = Granularity::query_head;
  return all;
}

// After every step the reference strikes what the engine struck, and has to come to the same logits. mistral3: grouped
// heads; qwen25: biases, 14 heads; llama3: scaled frequencies.
class SlotPositions : public ::testing::TestWithParam<const char*> {};

TEST_P(SlotPositions, LogitsByDefinition) {
  const Checkpoint checkpoint = open_checkpoint(std::string(RESTKV_TEST_DATA "/models/") + GetParam());
  const ModelConfig& c = checkpoint.config;
  const std::vector<int32_t> tokens = random_prompt(120 + 12, c.vocab, 5);
  for (const CacheConfig& cache : cases())
    for (auto [sequence_size, tensor_size] : all_layouts())
      for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
        if (!layout_allowed(c, tensor_size)) continue;
        SCOPED_TRACE(fmt::format("{}, every {}, layout {}x{}, mode {}", cache.policy, cache.decode.every, sequence_size,
                                 tensor_size, static_cast<int>(mode)));
        ProcessGrid grid = make_grid(sequence_size, tensor_size);
        Context ctx({Device::cpu, 1});
        std::unique_ptr<Transformer> model;
        try {
          model = std::make_unique<Transformer>(ctx, grid, c, *checkpoint.weights, cache,
                                                TransformerOptions{.decode = mode});
        } catch (const InputError& e) {
          // Column sums and windows need whole groups of heads.
          ASSERT_NE(std::string(e.what()).find("KV heads on more tensor ranks"), std::string::npos) << e.what();
          continue;
        }
        ReferenceModel reference(checkpoint);
        PrefillOptions options;
        options.max_new_tokens = 12;
        Sequence sequence = model->prefill(std::span(tokens).first(120), options);
        for (int64_t i = 0; i < 120; ++i) reference.forward(tokens[static_cast<size_t>(i)]);
        reference.use_positions_in_cache();
        const bool per_query = cache.granularity == Granularity::query_head;
        const HeadRange share = model->plan().decode.heads.local;
        auto strike = [&] {
          const KeptSet kept = gather_kept(grid.world(), sequence.cache, per_query ? share.q.begin : share.kv.begin);
          for (int64_t layer = 0; layer < c.layers; ++layer)
            for (int64_t h = 0; h < c.Hq; ++h) {
              std::vector<int64_t> positions;
              const int64_t head = per_query ? h : h / (c.Hq / c.Hkv);
              for (int64_t p = 0; p < sequence.length; ++p)
                if (kept.contains({layer, head, p})) positions.push_back(p);
              reference.keep_positions(layer, h, positions);
            }
        };
        strike();
        for (int64_t step = 0; step < 12; ++step) {
          const int32_t token = tokens[static_cast<size_t>(120 + step)];
          model->decode_step(sequence, token);
          const Vector want = reference.forward(token);
          double scale = 0.0, worst = 0.0;
          for (size_t i = 0; i < want.size(); ++i) {
            scale = std::max(scale, std::abs(want[i]));
            worst = std::max(worst, std::abs(want[i] - static_cast<double>(sequence.logits[i])));
          }
          EXPECT_LT(worst / scale, kLogitsF32) << "step " << step;
          strike();
        }
      }
}

INSTANTIATE_TEST_SUITE_P(Models, SlotPositions, ::testing::Values("mistral3", "qwen25", "llama3"),
                         [](const auto& info) { return std::string(info.param); });

ModelConfig tiny(int64_t max_positions = 8192) {
  ModelConfig config = tiny_config(12, 4);
  config.max_positions = max_positions;
  return config;
}

struct Outcome {
  std::vector<int32_t> text;
  KeptSet kept;
};

Outcome run(const ProcessGrid& grid, const ModelConfig& config, const CacheConfig& cache, DecodeMode mode, int64_t L,
            int steps) {
  Context ctx({Device::cpu, 1});
  RandomSource source(config, 17, 3.0);
  Transformer model(ctx, grid, config, source, cache, {.decode = mode});
  PrefillOptions options;
  options.max_new_tokens = steps;
  Sequence sequence = model.prefill(random_prompt(L, config.vocab), options);
  Outcome outcome;
  outcome.text = continue_greedily(model, sequence, steps + 1);
  const HeadRange& share = model.plan().decode.heads.local;
  outcome.kept = gather_kept(grid.world(), sequence.cache,
                             cache.granularity == Granularity::query_head ? share.q.begin : share.kv.begin);
  return outcome;
}

TEST(PositionsInCache, SameTextOnEveryLayout) {
  constexpr int64_t kPrompt = 210;  // with 200, one step has two equal logits at the top
  const ModelConfig config = tiny();
  std::vector<CacheConfig> all = cases();
  all.push_back(cache_of("tova", 1));
  all.push_back(cache_of("key_norm", 4));
  all.push_back(cache_of("h2o", 2));
  all.back().granularity = Granularity::query_head;
  for (const CacheConfig& cache : all) {
    ProcessGrid alone(make_self_communicator(), 1, 1);
    const Outcome want = run(alone, config, cache, DecodeMode::tensor, kPrompt, 40);
    for (auto [sequence_size, tensor_size] : all_layouts())
      for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
        if (!layout_allowed(config, tensor_size)) continue;
        SCOPED_TRACE(fmt::format("{}, every {}, layout {}x{}, mode {}", cache.policy, cache.decode.every, sequence_size,
                                 tensor_size, static_cast<int>(mode)));
        ProcessGrid grid = make_grid(sequence_size, tensor_size);
        const Outcome got = run(grid, config, cache, mode, kPrompt, 40);
        EXPECT_EQ(got.text, want.text);
        EXPECT_GE(jaccard(got.kept, want.kept), 0.9);
      }
  }
}

// Until the first eviction slots are positions: both modes decide it alike. A prompt of 58 is not evicted; with a check
// every third token the first eviction comes with the third new one, of 61 rows.
TEST(PositionsInCache, TheFirstDecisionWhileDecodingIsThatOfOriginalPositions) {
  const ModelConfig config = tiny();
  ProcessGrid grid = make_grid(mpi_runtime().size(), 1);
  for (const char* policy : {"streaming_llm", "lacache", "tova", "h2o", "key_norm", "random", "snapkv", "restkv"})
    for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
      CacheConfig cache = cache_of(policy, 3);
      const Outcome in_cache = run(grid, config, cache, mode, 58, 3);
      cache.positions = Positions::original;
      const Outcome original = run(grid, config, cache, mode, 58, 3);
      EXPECT_EQ(in_cache.text, original.text) << policy;
      EXPECT_EQ(in_cache.kept, original.kept) << policy;
      EXPECT_LT(in_cache.kept.size(), static_cast<size_t>(61 * config.layers * config.Hkv)) << policy;
    }
}

TEST(PositionsInCache, DefaultsFollowTheSources) {
  auto re_indexes = [](const char* policy, Positions positions) {
    CacheConfig cache;
    cache.policy = policy;
    cache.positions = positions;
    return cache.re_indexes();
  };
  using enum Positions;
  for (const char* policy : {"restkv", "full", "random", "snapkv", "sliding_window", "h2o", "tova", "key_norm"})
    EXPECT_FALSE(re_indexes(policy, automatic)) << policy;
  for (const char* policy : {"streaming_llm", "lacache"}) {
    EXPECT_TRUE(re_indexes(policy, automatic)) << policy;
    EXPECT_FALSE(re_indexes(policy, original)) << policy;
  }
  EXPECT_TRUE(re_indexes("restkv", Positions::cache));
}

TEST(PositionsInCache, RoomByHand) {
  CacheConfig cache = cache_of("streaming_llm", 0);
  const CacheShape shape{4, 4};
  EXPECT_EQ(decode_room(cache, shape, 50, 100), 50);  // not evicted
  EXPECT_EQ(decode_room(cache, shape, 90, 100), 40);  // 60 rows stay
  EXPECT_EQ(decode_room(cache, shape, 61, 50), 0);
  cache.decode.every = 1;
  EXPECT_EQ(decode_room(cache, shape, 90, 100), 2147483647 - 90);
  EXPECT_EQ(decode_room(cache, shape, 90, 61), 2147483647 - 90);  // 60 rows and the new one
  EXPECT_EQ(decode_room(cache, shape, 90, 60), 0);
  cache.decode.trigger = 120;
  EXPECT_EQ(decode_room(cache, shape, 90, 100), 40);
  cache.positions = Positions::original;
  EXPECT_EQ(decode_room(cache, shape, 90, 100), 10);
  EXPECT_EQ(decode_room(cache, shape, 190, 100), 0);
}

// A text of 700 tokens from a model of 128 positions: as that of the same model with more of them.
TEST(PositionsInCache, TextsLongerThanTheModelsPositions) {
  const CacheConfig cache = cache_of("streaming_llm", 1);
  for (auto [sequence_size, tensor_size] : all_layouts()) {
    if (!layout_allowed(tiny(), tensor_size)) continue;
    ProcessGrid grid = make_grid(sequence_size, tensor_size);
    for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
      const Outcome few = run(grid, tiny(128), cache, mode, 100, 600), many = run(grid, tiny(), cache, mode, 100, 600);
      EXPECT_EQ(few.text, many.text);
    }
  }
  ProcessGrid grid = make_grid(mpi_runtime().size(), 1);
  CacheConfig other = cache_of("streaming_llm", 0);
  EXPECT_NO_THROW(run(grid, tiny(128), other, DecodeMode::tensor, 100, 68));
  try {
    run(grid, tiny(128), other, DecodeMode::tensor, 100, 69);
    ADD_FAILURE() << "69 tokens after 60 rows in 128 positions";
  } catch (const InputError& e) {
    EXPECT_STREQ(e.what(),
                 "prompt: 100 tokens and 69 to generate exceed the model's 128 positions (in the cache 68 more have "
                 "room)");
  }
  Context ctx({Device::cpu, 1});
  const ModelConfig config = tiny(128);
  RandomSource source(config, 17, 3.0);
  Transformer model(ctx, grid, config, source, other, {});
  Sequence sequence = model.prefill(random_prompt(100, config.vocab), {});
  for (int i = 0; i < 68; ++i) model.decode_step(sequence, 1);
  EXPECT_THROW(model.decode_step(sequence, 1), InputError);
}

TEST(PositionsInCache, RefusesFrequenciesThatFollowTheText) {
  ProcessGrid grid = make_grid(mpi_runtime().size(), 1);
  Context ctx({Device::cpu, 1});
  ModelConfig config = tiny();
  config.rope.type = "dynamic";
  config.rope.factor = 2.0;
  config.rope.original_max_positions = 64;
  RandomSource source(config, 17, 3.0);
  CacheConfig cache = cache_of("streaming_llm", 0);
  cache.positions = Positions::automatic;
  EXPECT_THROW(Transformer(ctx, grid, config, source, cache, {}), InputError);
  cache.positions = Positions::original;
  EXPECT_NO_THROW(Transformer(ctx, grid, config, source, cache, {}));
}

}  // namespace
}  // namespace restkv::testing
