// ReST-KV in each family against a model and an eviction written out token by token: what is kept in every layer and
// head, and the logits of the steps that read it, on every layout of the ranks at hand.
#include <gtest/gtest.h>

#include "dist/base/mix.h"
#include "tests/model/reference_model.h"
#include "tests/model/run_model.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

constexpr int64_t kPrompt = 220, kSteps = 4;

struct Expected {
  std::vector<Reference> layers;  // scores and kept past positions of the cache heads
  std::vector<Vector> logits;     // of the prompt and of every step
};

std::vector<int32_t> tokens_of(const ModelConfig& config) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < kPrompt + kSteps; ++i)
    tokens.push_back(static_cast<int32_t>(mix64(static_cast<uint64_t>(i) + 5) % static_cast<uint64_t>(config.vocab)));
  return tokens;
}

Expected expected_of(const Checkpoint& checkpoint, const CacheConfig& cache) {
  const ModelConfig& c = checkpoint.config;
  ReferenceModel model(checkpoint);
  const std::vector<int32_t> tokens = tokens_of(c);
  Expected out;
  out.logits.emplace_back();
  for (int64_t i = 0; i < kPrompt; ++i) out.logits[0] = model.forward(tokens[i]);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const EvictionCase one = model.eviction_case(layer, cache);
    out.layers.push_back(Formulas(one).run());
    for (int64_t h = 0; h < c.Hq; ++h) {
      std::vector<int64_t> kept =
          out.layers.back().kept[cache.granularity == Granularity::kv_head ? h / (c.Hq / c.Hkv) : h];
      for (int64_t position = one.P(); position < one.L; ++position) kept.push_back(position);
      model.keep(layer, h, kept);
    }
  }
  for (int64_t step = 0; step < kSteps; ++step) out.logits.push_back(model.forward(tokens[kPrompt + step]));
  return out;
}

// Positions that one side alone keeps must lie at the cut, where float32 does not tell scores apart. Returns their
// number.
int64_t compare_kept(const KeptSet& got, const Expected& want, const CacheConfig& cache) {
  int64_t different = 0;
  size_t rows = 0;
  for (size_t layer = 0; layer < want.layers.size(); ++layer)
    for (size_t head = 0; head < want.layers[layer].kept.size(); ++head) {
      const Vector& scores = want.layers[layer].scores[head];
      const std::vector<int64_t>& kept = want.layers[layer].kept[head];
      const double largest = *std::max_element(scores.begin(), scores.end());
      double cut = largest;
      for (int64_t p : kept) cut = std::min(cut, scores[p]);
      for (int64_t p = 0; p < kPrompt; ++p) {
        const bool window = p >= kPrompt - cache.window, wanted = window || std::count(kept.begin(), kept.end(), p) > 0;
        if (got.contains({layer, head, p}) == wanted) continue;
        ++different;
        EXPECT_FALSE(window) << "layer " << layer << " head " << head << ": window position " << p << " is missing";
        if (!window) {
          EXPECT_NEAR(scores[p], cut, kScoresF32 * largest) << "layer " << layer << " head " << head << " at " << p;
        }
      }
      rows += static_cast<size_t>(cache.budget.tokens);
    }
  EXPECT_EQ(got.size(), rows);
  return different;
}

void compare_logits(const std::vector<float>& got, const Vector& want, int64_t step) {
  double scale = 0.0, worst = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    scale = std::max(scale, std::abs(want[i]));
    worst = std::max(worst, std::abs(want[i] - static_cast<double>(got[i])));
  }
  EXPECT_LT(worst / scale, kLogitsF32) << "step " << step;
}

class FamilyEviction : public ::testing::TestWithParam<std::tuple<const char*, Granularity>> {};

TEST_P(FamilyEviction, KeepsWhatTheFormulasKeep) {
  const Checkpoint checkpoint = open_checkpoint(std::string(RESTKV_TEST_DATA "/models/") + std::get<0>(GetParam()));
  const ModelConfig& c = checkpoint.config;
  CacheConfig cache;
  cache.budget.tokens = 60;
  cache.window = 16;
  cache.beta = 1.0;  // random weights drift little along the window
  cache.granularity = std::get<1>(GetParam());
  const Expected want = expected_of(checkpoint, cache);
  int64_t wide = 0;
  for (const Reference& layer : want.layers)
    for (int64_t kernel : layer.kernel) wide += kernel > cache.kernel_size;
  EXPECT_GT(wide, 0) << "the smoothing never adapted";
  const std::vector<int32_t> tokens = tokens_of(c);
  for (auto [sequence_size, tensor_size] : all_layouts()) {
    if (!layout_allowed(c, tensor_size)) continue;
    SCOPED_TRACE(fmt::format("layout {}x{}", sequence_size, tensor_size));
    ProcessGrid grid = make_grid(sequence_size, tensor_size);
    Context ctx({Device::cpu, 1});
    Transformer model(ctx, grid, c, *checkpoint.weights, cache, {});
    PrefillOptions options;
    options.max_new_tokens = kSteps;
    Sequence sequence = model.prefill(std::span(tokens).first(kPrompt), options);
    ASSERT_TRUE(sequence.report.evicted);
    const HeadRange share = model.plan().decode.heads.local;
    const int64_t first = cache.granularity == Granularity::query_head ? share.q.begin : share.kv.begin;
    const KeptSet kept = gather_kept(grid.world(), sequence.cache, first);
    const int64_t different = compare_kept(kept, want, cache);
    compare_logits(sequence.logits, want.logits[0], 0);
    if (different > 0) continue;  // the steps would read other rows
    for (int64_t step = 0; step < kSteps; ++step) {
      model.decode_step(sequence, tokens[kPrompt + step]);
      compare_logits(sequence.logits, want.logits[step + 1], step + 1);
    }
  }
}

// Multi-head, grouped with scaled frequencies, grouped, multi-query heads of 256, biases on 14 heads, a window of 100
// positions in all layers; soft-caps, and a window of 64 in every other layer.
INSTANTIATE_TEST_SUITE_P(Models, FamilyEviction,
                         ::testing::Combine(::testing::Values("llama2", "llama32", "mistral3", "gemma_2b", "qwen25",
                                                              "mistral_window", "gemma2"),
                                            ::testing::Values(Granularity::kv_head, Granularity::query_head)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) == Granularity::kv_head ? "_kv_head" : "_query_head");
                         });

}  // namespace
}  // namespace restkv::testing
