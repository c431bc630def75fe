// Every family from a GGUF file: the golden checkpoints, written as converters write them, give the golden logits.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "model/checkpoint.h"
#include "model/transformer.h"
#include "model/weights/gguf_file.h"
#include "tests/model/weight_files.h"
#include "tests/read_safetensors.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

/// A GGUF file of float32 tensors.
class GgufModel {
 public:
  explicit GgufModel(const std::string& architecture) : architecture_(architecture) {
    bytes_.key("general.architecture", architecture);
  }
  template <class T>
  void key(const std::string& name, T value) {
    bytes_.key(architecture_ + "." + name, value);
  }
  void count(const std::string& name, int64_t value) { key(name, static_cast<uint32_t>(value)); }
  void number(const std::string& name, double value) { key(name, static_cast<float>(value)); }
  void tensor(const std::string& name, const Shape& shape, const std::vector<float>& values) {
    bytes_.tensor(name, {shape.rbegin(), shape.rend()}, 0, data_.size());
    data_ += raw(values);
    data_.resize((data_.size() + 31) / 32 * 32);
  }
  std::string bytes() const { return bytes_.bytes(data_); }

 private:
  std::string architecture_;
  GgufBytes bytes_;
  std::string data_;
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::string gguf_name(std::string name, bool output_norms) {
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  name = replaced(name, "model.layers.", "blk.");
  name = replaced(name, "post_attention_layernorm", output_norms ? "post_attention_norm" : "ffn_norm");
  for (auto [from, to] : {std::pair{"input_layernorm", "attn_norm"},
                          {"pre_feedforward_layernorm", "ffn_norm"},
                          {"post_feedforward_layernorm", "post_ffw_norm"},
                          {"self_attn.q_proj", "attn_q"},
                          {"self_attn.k_proj", "attn_k"},
                          {"self_attn.v_proj", "attn_v"},
                          {"self_attn.o_proj", "attn_output"},
                          {"mlp.gate_proj", "ffn_gate"},
                          {"mlp.up_proj", "ffn_up"},
                          {"mlp.down_proj", "ffn_down"}})
    name = replaced(name, from, to);
  return name;
}

/// Rows of heads [first half, second half] become pairs, as interleaved rotation wants them.
std::vector<float> interleaved(const std::vector<float>& values, int64_t heads, int64_t d, int64_t cols) {
  std::vector<float> out(values.size());
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < d; ++i)
      std::copy_n(&values[(h * d + i) * cols], cols, &out[(h * d + i % (d / 2) * 2 + i / (d / 2)) * cols]);
  return out;
}

/// What each frequency is divided by in Llama 3.1 (rope_freqs.weight).
std::vector<float> llama3_factors(const RopeConfig& rope, int64_t d) {
  std::vector<float> factors;
  const auto original = static_cast<double>(rope.original_max_positions);
  for (int64_t i = 0; i < d; i += 2) {
    const double turns = original * std::pow(rope.theta, -double(i) / double(d)) / (2.0 * std::numbers::pi);
    const double smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    const double blend = std::clamp(smooth, 0.0, 1.0);
    factors.push_back(static_cast<float>(1.0 / ((1.0 - blend) / rope.factor + blend)));
  }
  return factors;
}

void write_rope(const ModelConfig& c, GgufModel& file) {
  file.number("rope.freq_base", c.rope.theta);
  file.count("rope.dimension_count", c.d);
  if (c.rope.type == "linear" || c.rope.type == "yarn") {
    file.key("rope.scaling.type", c.rope.type);
    file.number("rope.scaling.factor", c.rope.factor);
    file.count("rope.scaling.original_context_length", c.rope.original_max_positions);
  }
  if (c.rope.type == "llama3") file.tensor("rope_freqs.weight", {c.d / 2}, llama3_factors(c.rope, c.d));
}

std::string to_gguf(const Checkpoint& checkpoint) {
  const ModelConfig& c = checkpoint.config;
  const bool like_llama = c.family == "llama" || c.family == "mistral";
  GgufModel file(like_llama ? "llama" : c.family);
  file.count("block_count", c.layers);
  file.count("context_length", c.rope.original_max_positions > 0 && c.rope.type != "llama3"
                                   ? c.rope.original_max_positions
                                   : c.max_positions);
  file.count("embedding_length", c.hidden);
  file.count("feed_forward_length", c.intermediate);
  file.count("attention.head_count", c.Hq);
  file.count("attention.head_count_kv", c.Hkv);
  file.count("attention.key_length", c.d);
  file.count("attention.value_length", c.d);
  file.number("attention.layer_norm_rms_epsilon", c.rms_eps);
  if (c.traits.sliding_window > 0) file.count("attention.sliding_window", c.traits.sliding_window);
  if (c.traits.attention_softcap > 0.0) file.number("attn_logit_softcapping", c.traits.attention_softcap);
  if (c.traits.logit_softcap > 0.0) file.number("final_logit_softcapping", c.traits.logit_softcap);
  write_rope(c, file);
  for (const WeightInfo& info : checkpoint.weights->list()) {
    const Range rows{0, info.shape.size() == 1 ? 1 : info.shape[0]}, cols{0, info.shape.back()};
    std::vector<float> values = read_f32(*checkpoint.weights, info.name, rows, cols);
    if (like_llama && info.name.find("q_proj.weight") != std::string::npos)
      values = interleaved(values, c.Hq, c.d, cols.end);
    if (like_llama && info.name.find("k_proj.weight") != std::string::npos)
      values = interleaved(values, c.Hkv, c.d, cols.end);
    if (c.family.starts_with("gemma") && info.name.ends_with("norm.weight"))
      for (float& x : values) x += 1.0f;
    file.tensor(gguf_name(info.name, c.traits.output_norms), info.shape, values);
  }
  return file.bytes();
}

void expect_golden_logits(const Checkpoint& checkpoint, const GoldenFile& golden, int n) {
  ProcessGrid alone(make_self_communicator(), 1, 1);
  Context ctx({Device::cpu, 1});
  CacheConfig cache;
  cache.policy = "full";
  Transformer model(ctx, alone, checkpoint.config, *checkpoint.weights, cache, {});
  const std::string suffix = "_" + std::to_string(n);
  const auto& logits = golden.at("logits" + suffix).f32;
  const std::vector<float> got = model.prefill(golden.at("ids" + suffix).i32).logits;
  const float* want = &logits[logits.size() - got.size()];  // the last row
  double scale = 0.0, worst = 0.0;
  for (size_t i = 0; i < got.size(); ++i) {
    scale = std::max(scale, std::abs(double(want[i])));
    worst = std::max(worst, std::abs(double(want[i]) - got[i]));
  }
  EXPECT_LT(worst / scale, kLogitsF32) << "prompt of " << n;
}

class FamilyGguf : public ::testing::TestWithParam<const char*> {};

TEST_P(FamilyGguf, GivesTheGoldenLogits) {
  const std::string directory = std::string(RESTKV_TEST_DATA "/models/") + GetParam();
  const Checkpoint hf = open_checkpoint(directory);
  TemporaryDirectory dir;
  Checkpoint gguf = open_checkpoint(dir.write("model.gguf", to_gguf(hf)));
  EXPECT_EQ(gguf.format, "gguf");
  EXPECT_EQ(gguf.config.family, hf.config.family == "mistral" ? "llama" : hf.config.family);
  EXPECT_EQ(gguf.config.max_positions, hf.config.max_positions);
  EXPECT_EQ(gguf.config.tied_embeddings, hf.config.tied_embeddings);
  EXPECT_EQ(gguf.config.traits.sliding_window, hf.config.traits.sliding_window);
  if (gguf.config.family == "gemma2") {
    EXPECT_DOUBLE_EQ(gguf.config.attention_scale(), 1.0 / std::sqrt(double(hf.config.d)));
    gguf.config.traits.query_scale = hf.config.traits.query_scale;  // which the format cannot say
  }
  const GoldenFile golden = read_golden(directory + "/golden.safetensors");
  for (int n : {17, 300, 505})
    if (golden.has("ids_" + std::to_string(n))) expect_golden_logits(gguf, golden, n);
}

// All but llama_dynamic: the format has no such type.
INSTANTIATE_TEST_SUITE_P(Models, FamilyGguf,
                         ::testing::Values("llama2", "llama3", "llama32", "llama_linear", "mistral", "mistral3",
                                           "mistral_window", "gemma", "gemma_2b", "gemma2", "qwen2", "qwen25",
                                           "qwen2_yarn"),
                         [](const auto& info) { return std::string(info.param); });

TEST(FamilyGgufKeys, Gemma2OfTheLargestSize) {
  GgufModel file("gemma2");
  for (auto [name, value] : {std::pair{"block_count", 46},
                             {"context_length", 8192},
                             {"embedding_length", 4608},
                             {"feed_forward_length", 36864},
                             {"attention.head_count", 32},
                             {"attention.head_count_kv", 16},
                             {"attention.key_length", 128},
                             {"vocab_size", 10}})
    file.count(name, value);
  file.number("attention.layer_norm_rms_epsilon", 1e-6);
  TemporaryDirectory dir;
  const ModelConfig c = read_gguf_config(GgufFile(dir.write("a.gguf", file.bytes())));
  EXPECT_DOUBLE_EQ(c.attention_scale(), 1.0 / 12.0);  // 4608 / 32 = 144
  EXPECT_EQ(c.window_of(0), 4096);
  EXPECT_EQ(c.window_of(1), 0);
  EXPECT_EQ(c.traits.attention_softcap, 50.0);
  EXPECT_EQ(c.traits.logit_softcap, 30.0);
}

}  // namespace
}  // namespace restkv::testing
