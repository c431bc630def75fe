// SmolLM2-135M-Instruct against Hugging Face transformers (tests/data/smollm2). Skips when the model is not there.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/checkpoint.h"
#include "tests/model/run_model.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

class SmolLm2 : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("RESTKV_SMOLLM2");
    if (path == nullptr || !std::filesystem::exists(path))
      GTEST_SKIP() << "RESTKV_SMOLLM2 names no file; launch/fetch_smollm2.sh fetches the model";
    checkpoint = open_checkpoint(path);
    std::ifstream in(RESTKV_TEST_DATA "/smollm2/perplexity.json");
    reference = nlohmann::json::parse(in);
    ids = reference.at("ids").get<std::vector<int32_t>>();
  }

  Transformer make(const ProcessGrid& grid, Context& ctx, const std::string& policy) {
    CacheConfig cache;
    cache.policy = policy;
    cache.budget.fraction = 0.5;
    return Transformer(ctx, grid, checkpoint.config, *checkpoint.weights, cache, {});
  }

  Checkpoint checkpoint;
  nlohmann::json reference;
  std::vector<int32_t> ids;
};

double nll_of(std::span<const float> logits, int32_t token) {
  double high = *std::max_element(logits.begin(), logits.end()), sum = 0.0;
  for (float x : logits) sum += std::exp(x - high);
  return high + std::log(sum) - logits[token];
}

TEST_F(SmolLm2, TokenizerGivesTheReferenceIds) {
  EXPECT_EQ(checkpoint.tokenizer->encode(reference.at("text").get<std::string>(), false), ids);
}

TEST_F(SmolLm2, PerplexityAndGreedyContinuation) {
  ProcessGrid grid = testing::make_grid(testing::mpi_runtime().size(), 1);
  Context ctx({Device::cpu, std::max(1, 2 / testing::mpi_runtime().size())});
  Transformer model = make(grid, ctx, "full");
  PrefillOptions options;
  options.max_new_tokens = 32;
  for (size_t i = 0; i + 1 < ids.size(); ++i) options.logit_rows.push_back(static_cast<int64_t>(i));
  double nll = 0.0;
  options.on_logits = [&](int64_t position, std::span<const float> logits) {
    nll += nll_of(logits, ids[position + 1]);
  };
  Sequence sequence = model.prefill(ids, options);
  double perplexity = std::exp(nll / static_cast<double>(ids.size() - 1));
  double want = reference.at("perplexity");
  EXPECT_NEAR(perplexity, want, testing::kPerplexity * want);

  auto top_ids = reference.at("top_ids").get<std::vector<int32_t>>();
  auto top_logits = reference.at("top_logits").get<std::vector<float>>();
  double worst = 0.0;
  for (size_t i = 0; i < top_ids.size(); ++i)
    worst = std::max<double>(worst, std::abs(sequence.logits[top_ids[i]] - top_logits[i]));
  EXPECT_LT(worst / top_logits[0], testing::kLogitsF32);
  EXPECT_EQ(testing::continue_greedily(model, sequence, 32), reference.at("greedy").get<std::vector<int32_t>>());
}

TEST_F(SmolLm2, DecodeEqualsPrefill) {
  ProcessGrid grid = testing::make_grid(testing::mpi_runtime().size(), 1);
  Context ctx({Device::cpu, std::max(1, 2 / testing::mpi_runtime().size())});
  Transformer model = make(grid, ctx, "full");
  PrefillOptions options;
  options.max_new_tokens = 10;
  Sequence stepped = model.prefill(std::span(ids).first(290), options);
  for (int i = 290; i < 300; ++i) model.decode_step(stepped, ids[i]);
  Sequence whole = model.prefill(std::span(ids).first(300));
  double scale = 0.0, worst = 0.0;
  for (size_t i = 0; i < whole.logits.size(); ++i) {
    scale = std::max(scale, std::abs(double(whole.logits[i])));
    worst = std::max(worst, std::abs(double(whole.logits[i]) - stepped.logits[i]));
  }
  EXPECT_LT(worst / scale, testing::kLogitsF32);
}

TEST_F(SmolLm2, EvictionKeepsHalfAndTheSameHalfOnAnySequenceLayout) {
  Context ctx({Device::cpu, std::max(1, 2 / testing::mpi_runtime().size())});
  ProcessGrid grid = testing::make_grid(testing::mpi_runtime().size(), 1);
  ProcessGrid alone(make_self_communicator(), 1, 1);
  PrefillReport sharded = make(grid, ctx, "restkv").prefill(ids).report;
  PrefillReport single = make(alone, ctx, "restkv").prefill(ids).report;
  EXPECT_TRUE(sharded.evicted);
  EXPECT_EQ(sharded.budget, (static_cast<int64_t>(ids.size()) + 1) / 2);
  EXPECT_EQ(sharded.kept_hash, single.kept_hash);
  EXPECT_EQ(sharded.cache_bytes, single.cache_bytes);
  EXPECT_LT(sharded.cache_bytes, sharded.full_cache_bytes * 51 / 100);
}

}  // namespace
}  // namespace restkv
