// Presets against the published sizes, and the elements of random weights against their definition.
#include "model/presets.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "dist/base/error.h"
#include "dist/base/mix.h"
#include "model/families/family.h"
#include "model/weights/random_fill.h"
#include "model/weights/random_source.h"

namespace restkv {
namespace {

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const InputError& e) {
    return e.what();
  }
  ADD_FAILURE() << "expected an error";
  return "";
}

TEST(Presets, HoldAsManyWeightsAsTheModels) {
  // Numbers of weights of the published checkpoints (Qwen's with its 129,024 biases).
  const std::map<std::string, int64_t> published = {{"llama-2-7b", 6738415616},      {"llama-3.1-8b", 8030261248},
                                                    {"llama-3.1-70b", 70553706496},  {"llama-3.1-405b", 405853388800},
                                                    {"mistral-7b-v0.3", 7248023552}, {"gemma-7b", 8537680896},
                                                    {"qwen2.5-7b", 7615616512}};
  size_t found = 0;
  for (const Preset& preset : presets()) {
    EXPECT_NO_THROW(preset.config.validate(std::string(preset.name)));
    auto it = published.find(std::string(preset.name));
    if (it == published.end()) continue;
    EXPECT_EQ(preset.config.parameters(), it->second) << preset.name;
    ++found;
  }
  EXPECT_EQ(found, published.size());
}

TEST(Presets, ShapeOfOne) {
  ModelConfig c = preset_config("llama-3.1-8b");
  EXPECT_EQ(c.Hq, 32);
  EXPECT_EQ(c.Hkv, 8);
  EXPECT_EQ(c.d, 128);
  EXPECT_EQ(c.max_positions, 131072);
  EXPECT_EQ(c.rope.type, "llama3");
  EXPECT_EQ(c.rope.factor, 8.0);
  EXPECT_EQ(c.rope.original_max_positions, 8192);
  EXPECT_EQ(preset_config("llama-3.1-8b", 3).layers, 3);
}

// Random weights have every tensor that the family reads from a file, in the same shape, and no other.
TEST(Presets, RandomWeightsHaveTheTensorsOfTheFamily) {
  for (const Preset& preset : presets()) {
    ModelConfig c = preset_config(preset.name, 1);
    RandomSource source(c, 3);
    auto specs = family_of(c).tensors(c);
    check_tensors(source, specs);
    EXPECT_EQ(source.list().size(), specs.size()) << preset.name;
  }
}

TEST(Presets, RandomNormsAndBiases) {
  auto mean = [](const char* preset, const std::string& name) {
    RandomSource source(preset_config(preset, 1), 3);
    std::vector<float> values(static_cast<size_t>(source.info(name).shape[0]));
    source.read(name, {0, 1}, {0, static_cast<int64_t>(values.size())}, DType::f32, values.data());
    double sum = 0.0, square = 0.0;
    for (float x : values) sum += x, square += x * x;
    return std::pair(sum / double(values.size()), square / double(values.size()));
  };
  EXPECT_NEAR(mean("qwen2.5-7b", "model.norm.weight").first, 1.0, 0.01);
  EXPECT_NEAR(mean("gemma-7b", "model.norm.weight").first, 0.0, 0.01) << "one is added to them";
  auto [center, square] = mean("qwen2.5-7b", "model.layers.0.self_attn.q_proj.bias");
  EXPECT_NEAR(center, 0.0, 0.05);
  EXPECT_NEAR(square, 0.25 / 3.0, 0.01);
}

TEST(Presets, Mistakes) {
  EXPECT_EQ(message_of([] { preset_config("llama-3.1-9b"); }),
            "model.preset: found \"llama-3.1-9b\", expected one of tiny, llama-2-7b, llama-3.1-8b, llama-3.1-70b, "
            "llama-3.1-405b, mistral-7b-v0.3, gemma-7b, qwen2.5-7b");
  EXPECT_EQ(message_of([] { preset_config("tiny", 3); }),
            "model.layers: found 3, expected at most 2, the layers of tiny");
}

TEST(Presets, CheckpointWithoutATokenizer) {
  Checkpoint c = make_random_checkpoint("tiny", preset_config("tiny"), 7, 1.0);
  EXPECT_EQ(c.path, "random:tiny");
  EXPECT_EQ(c.tokenizer, nullptr);
  EXPECT_TRUE(c.weights->contains("model.layers.1.mlp.down_proj.weight"));
  EXPECT_FALSE(c.weights->contains("model.layers.2.mlp.down_proj.weight"));
}

TEST(RandomFill, ElementsAreWhatTheHeaderSays) {
  RandomElements e;
  e.key = 12345;
  e.width = 1000;
  e.rows = {3, 70};
  e.cols = {10, 47};
  e.center = 1.0f;
  e.half_width = 0.25f;
  Context ctx({Device::cpu, 2});
  Tensor half = ctx.empty(DType::bf16, {67, 37}), full = ctx.empty(DType::f32, {67, 37});
  random_fill(ctx, e, half);
  random_fill(ctx, e, full);
  for (int64_t r = 0; r < 67; ++r)
    for (int64_t c = 0; c < 37; ++c) {
      uint64_t word = mix64(12345 + static_cast<uint64_t>((r + 3) * 1000 + c + 10));
      double u = std::ldexp(static_cast<double>(word >> 11), -53) * 2.0 - 1.0;
      bf16 expected = to_bf16(static_cast<float>(1.0 + 0.25 * static_cast<double>(static_cast<float>(u))));
      ASSERT_EQ(half.data<bf16>()[r * 37 + c].bits, expected.bits) << r << ", " << c;
      ASSERT_EQ(full.data<float>()[r * 37 + c], to_float(expected));
    }
}

TEST(RandomFill, SourceFillsWhatItReads) {
  RandomSource source(preset_config("tiny"), 11, 2.0);
  Context ctx({Device::cpu, 2});
  for (auto [name, rows, cols] : {std::tuple<const char*, Range, Range>{"model.norm.weight", {0, 1}, {0, 256}},
                                  {"model.layers.0.self_attn.o_proj.weight", {0, 256}, {32, 96}},
                                  {"model.layers.1.mlp.gate_proj.weight", {100, 300}, {0, 256}},
                                  {"model.layers.1.mlp.gate_proj.weight", {5, 5}, {0, 256}}}) {
    Tensor out = ctx.empty(DType::bf16, {rows.size(), cols.size()});
    ASSERT_TRUE(source.fill(ctx, name, rows, cols, out));
    std::vector<bf16> read(static_cast<size_t>(out.numel()));
    source.read(name, rows, cols, DType::bf16, read.data());
    for (size_t i = 0; i < read.size(); ++i) ASSERT_EQ(out.data<bf16>()[i].bits, read[i].bits) << name << " " << i;
  }
  Tensor wrong = ctx.empty(DType::bf16, {2, 3});
  EXPECT_THROW(source.fill(ctx, "model.norm.weight", {0, 1}, {0, 256}, wrong), RuntimeFailure);
}

}  // namespace
}  // namespace restkv
