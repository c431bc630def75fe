// Logits and greedy continuations of Hugging Face transformers (float32), on every layout of the ranks at hand.
// Reads every checkpoint directory under RESTKV_MODEL_GOLDEN_DIR, by default tests/data/models.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "dist/base/error.h"
#include "model/checkpoint.h"
#include "tests/model/run_model.h"
#include "tests/read_safetensors.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> checkpoints() {
  const char* dir = std::getenv("RESTKV_MODEL_GOLDEN_DIR");
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(dir != nullptr ? dir : RESTKV_TEST_DATA "/models"))
    if (fs::exists(entry.path() / "golden.safetensors")) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

// The lengths of its prompts.
std::vector<int> prompts_of(const testing::GoldenFile& golden) {
  std::vector<int> lengths;
  for (int n : {1, 17, 300, 505, 2000})
    if (golden.has("ids_" + std::to_string(n))) lengths.push_back(n);
  return lengths;
}

// The families of config.json that this version does not run: skipped by name, never silently.
bool supported(const fs::path& directory) {
  static const std::vector<std::string> kFamilies = {"llama", "mistral", "gemma", "gemma2", "qwen2"};
  std::ifstream in(directory / "config.json");
  std::string type = nlohmann::json::parse(in).at("model_type");
  return std::find(kFamilies.begin(), kFamilies.end(), type) != kFamilies.end();
}

CacheConfig full_cache() {
  CacheConfig cache;
  cache.policy = "full";
  return cache;
}

void compare_prompt(Transformer& model, const testing::GoldenFile& golden, int n) {
  SCOPED_TRACE("prompt of " + std::to_string(n));
  std::string suffix = "_" + std::to_string(n);
  const auto& ids = golden.at("ids" + suffix).i32;
  const auto& rows = golden.at("rows" + suffix).i32;
  const auto& want = golden.at("logits" + suffix).f32;
  int64_t vocab = model.config().vocab;
  PrefillOptions options;
  options.max_new_tokens = 16;
  options.logit_rows.assign(rows.begin(), rows.end());
  size_t row = 0;
  options.on_logits = [&](int64_t position, std::span<const float> logits) {
    const float* reference = &want[row * vocab];
    double scale = 0.0, worst = 0.0;
    for (int64_t i = 0; i < vocab; ++i) {
      scale = std::max(scale, std::abs(static_cast<double>(reference[i])));
      worst = std::max(worst, std::abs(static_cast<double>(logits[i]) - reference[i]));
    }
    EXPECT_LT(worst / scale, testing::kLogitsF32) << "row " << position;
    ++row;
  };
  Sequence sequence = model.prefill(ids, options);
  ASSERT_EQ(row, rows.size());
  if (golden.has("greedy" + suffix)) {
    EXPECT_EQ(testing::continue_greedily(model, sequence, 16), golden.at("greedy" + suffix).i32);
  }
}

TEST(ModelGolden, LogitsAndGreedyContinuation) {
  auto all = checkpoints();
  ASSERT_FALSE(all.empty());
  int compared = 0;
  for (const fs::path& directory : all) {
    SCOPED_TRACE(directory.filename().string());
    if (!supported(directory)) {
      if (testing::mpi_runtime().rank() == 0)
        printf("[  SKIPPED ] %s: family not supported yet\n", directory.filename().c_str());
      continue;
    }
    testing::GoldenFile golden = testing::read_golden(directory / "golden.safetensors");
    ASSERT_GE(prompts_of(golden).size(), 4u);
    Checkpoint checkpoint = open_checkpoint(directory);
    for (auto [sequence_size, tensor_size] : testing::all_layouts())
      for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
        if (!testing::layout_allowed(checkpoint.config, tensor_size)) continue;
        SCOPED_TRACE(fmt::format("layout {}x{}, decode mode {}", sequence_size, tensor_size, static_cast<int>(mode)));
        ProcessGrid grid = testing::make_grid(sequence_size, tensor_size);
        Context ctx({Device::cpu, 1});
        Transformer model(ctx, grid, checkpoint.config, *checkpoint.weights, full_cache(), {mode, {}});
        for (int n : prompts_of(golden)) compare_prompt(model, golden, n);
        ++compared;
      }
  }
  EXPECT_GT(compared, 0);
}

}  // namespace
}  // namespace restkv
