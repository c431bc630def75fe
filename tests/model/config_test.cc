#include "model/config.h"

#include <map>
#include <nlohmann/json.hpp>

#include "model/families/family.h"
#include "model/ops/rope.h"
#include "model/weights/gguf_file.h"
#include "tests/model/weight_files.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

using nlohmann::json;

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    base_ = {{"architectures", {"LlamaForCausalLM"}},
             {"hidden_size", 64},
             {"intermediate_size", 96},
             {"num_attention_heads", 8},
             {"num_hidden_layers", 3},
             {"vocab_size", 100},
             {"max_position_embeddings", 512},
             {"rms_norm_eps", 1e-6}};
  }
  /// The base with some keys set; null removes nothing, it is written as null.
  ModelConfig read(const json& changes) {
    json all = base_;
    all.update(changes);
    return read_hf_config(dir_.write("config.json", all.dump()));
  }
  void refuse(const json& changes, std::vector<std::string> parts) {
    parts.push_back(dir_.file("config.json"));
    SCOPED_TRACE(changes.dump());
    expect_input_error([&] { read(changes); }, parts);
  }

  TemporaryDirectory dir_;
  json base_;
};

TEST(GoldenConfig, Llama2) {
  ModelConfig c = read_hf_config(RESTKV_TEST_DATA "/models/llama2/config.json");
  EXPECT_EQ(c.family, "llama");
  EXPECT_EQ(c.layers, 2);
  EXPECT_EQ(c.hidden, 128);
  EXPECT_EQ(c.intermediate, 344);
  EXPECT_EQ(c.Hq, 8);
  EXPECT_EQ(c.Hkv, 8);
  EXPECT_EQ(c.d, 16);
  EXPECT_EQ(c.vocab, 256);
  EXPECT_EQ(c.max_positions, 4096);
  EXPECT_EQ(c.rms_eps, 1e-6);
  EXPECT_FALSE(c.tied_embeddings);
  EXPECT_EQ(c.rope.type, "default");
  EXPECT_EQ(c.rope.theta, 10000.0);
}

TEST(GoldenConfig, Llama3) {
  ModelConfig c = read_hf_config(RESTKV_TEST_DATA "/models/llama3/config.json");
  EXPECT_EQ(c.Hkv, 2);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_EQ(c.rope.type, "llama3");
  EXPECT_EQ(c.rope.theta, 500000.0);
  EXPECT_EQ(c.rope.factor, 8.0);
  EXPECT_EQ(c.rope.low_freq_factor, 1.0);
  EXPECT_EQ(c.rope.high_freq_factor, 4.0);
  EXPECT_EQ(c.rope.original_max_positions, 512);
}

TEST_F(ConfigTest, OptionalKeysAndNulls) {
  ModelConfig c = read({{"head_dim", nullptr},
                        {"num_key_value_heads", nullptr},
                        {"rope_scaling", nullptr},
                        {"rope_parameters", nullptr},
                        {"sliding_window", nullptr},
                        {"attention_bias", nullptr},
                        {"quantization_config", nullptr},
                        {"tie_word_embeddings", nullptr}});
  EXPECT_EQ(c.d, 8);
  EXPECT_EQ(c.Hkv, 8);
  EXPECT_EQ(c.rope.type, "default");
  EXPECT_EQ(c.rope.theta, 10000.0);
  EXPECT_FALSE(c.tied_embeddings);
  EXPECT_EQ(read({{"head_dim", 32}, {"num_key_value_heads", 2}}).d, 32);
}

TEST_F(ConfigTest, BothSpellingsOfTheRotarySettings) {
  json llama3 = {
      {"factor", 8}, {"low_freq_factor", 1}, {"high_freq_factor", 4}, {"original_max_position_embeddings", 8192}};
  json old_style = llama3, new_style = llama3;
  old_style["rope_type"] = "llama3";
  new_style["rope_type"] = "llama3";
  new_style["rope_theta"] = 5e5;
  for (const json& spelling :
       {json{{"rope_theta", 5e5}, {"rope_scaling", old_style}}, json{{"rope_parameters", new_style}}}) {
    RopeConfig rope = read(spelling).rope;
    EXPECT_EQ(rope.type, "llama3");
    EXPECT_EQ(rope.theta, 5e5);
    EXPECT_EQ(rope.factor, 8.0);
    EXPECT_EQ(rope.high_freq_factor, 4.0);
    EXPECT_EQ(rope.original_max_positions, 8192);
  }
  RopeConfig linear = read({{"rope_scaling", {{"type", "linear"}, {"factor", 2.5}}}}).rope;
  EXPECT_EQ(linear.type, "linear");
  EXPECT_EQ(linear.factor, 2.5);
  EXPECT_EQ(read({{"rope_parameters", {{"rope_theta", 7e4}}}}).rope.theta, 7e4);
}

// Whatever spelling the golden checkpoints have, the other one says the same.
TEST_F(ConfigTest, EveryGoldenCheckpointInBothSpellings) {
  std::map<std::string, int> types;
  for (const auto& entry : fs::directory_iterator(RESTKV_TEST_DATA "/models")) {
    SCOPED_TRACE(entry.path().filename().string());
    json config = json::parse(slurp(entry.path() / "config.json"));
    const RopeConfig want = read_hf_config(entry.path() / "config.json").rope;
    ++types[want.type];
    const bool is_new = config.contains("rope_parameters");
    json settings = config.value(is_new ? "rope_parameters" : "rope_scaling", json());
    if (settings.is_null()) settings = json::object();
    const json kind = settings.value("rope_type", settings.value("type", json("default")));
    const json theta = is_new ? settings["rope_theta"] : config["rope_theta"];
    for (const char* key : {"rope_type", "type", "rope_theta"}) settings.erase(key);
    for (const char* key : {"rope_parameters", "rope_scaling", "rope_theta"}) config.erase(key);
    json parameters = config, scaling = config, older = config;
    parameters["rope_parameters"] = settings;
    parameters["rope_parameters"].update({{"rope_type", kind}, {"rope_theta", theta}});
    for (auto [other, key] : {std::pair{&scaling, "rope_type"}, {&older, "type"}}) {
      (*other)["rope_theta"] = theta;
      (*other)["rope_scaling"] = settings;
      (*other)["rope_scaling"][key] = kind;
    }
    for (const json& spelling : {parameters, scaling, older})
      EXPECT_EQ(read_hf_config(dir_.write("config.json", spelling.dump())).rope, want) << spelling.dump();
  }
  EXPECT_EQ(types.size(), 5u) << "default, linear, dynamic, yarn, llama3";
}

TEST_F(ConfigTest, YarnAndDynamicScaling) {
  json yarn = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 256}};
  ModelConfig c = read({{"rope_scaling", yarn}});
  EXPECT_EQ(c.rope.type, "yarn");
  EXPECT_EQ(c.rope.original_max_positions, 256);
  EXPECT_EQ(c.rope.beta_fast, 32.0);
  EXPECT_EQ(c.rope.beta_slow, 1.0);
  EXPECT_TRUE(c.rope.truncate);
  EXPECT_DOUBLE_EQ(c.rope.attention_factor, 0.1 * std::log(4.0) + 1.0);
  EXPECT_EQ(c.max_positions, 1024) << "four times the original ones, which is more than the 512 stated";
  yarn.update({{"beta_fast", 16}, {"beta_slow", 2}, {"truncate", false}, {"attention_factor", 1.25}});
  yarn.erase("original_max_position_embeddings");
  c = read({{"rope_parameters", yarn}});
  EXPECT_EQ(c.rope.original_max_positions, 512);
  EXPECT_EQ(c.rope.beta_fast, 16.0);
  EXPECT_EQ(c.rope.beta_slow, 2.0);
  EXPECT_FALSE(c.rope.truncate);
  EXPECT_EQ(c.rope.attention_factor, 1.25);
  EXPECT_EQ(c.max_positions, 2048);
  c = read({{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}});
  EXPECT_EQ(c.rope.type, "dynamic");
  EXPECT_EQ(c.rope.original_max_positions, 512);
  EXPECT_EQ(c.rope.attention_factor, 1.0);
  EXPECT_EQ(c.max_positions, 1024);
  EXPECT_EQ(read({{"rope_scaling", {{"type", "linear"}, {"factor", 2.5}}}}).max_positions, 1280);
  yarn["beta_slow"] = 17;
  refuse({{"rope_scaling", yarn}}, {"beta_fast", "found 16"});
  refuse({{"rope_scaling", {{"type", "yarn"}, {"factor", 0}}}}, {"factor", "found 0"});
}

TEST_F(ConfigTest, Mistral) {
  base_["architectures"] = {"MistralForCausalLM"};
  ModelConfig c = read({{"sliding_window", nullptr}});
  EXPECT_EQ(c.family, "mistral");
  EXPECT_EQ(c.traits.sliding_window, 0);
  EXPECT_EQ(read({{"sliding_window", 128}}).traits.sliding_window, 128);
  EXPECT_EQ(read(json::object()).traits.sliding_window, 4096) << "the reference's default";
  refuse({{"sliding_window", 0}}, {"sliding_window", "found 0", "null"});
  refuse({{"hidden_act", "gelu"}}, {"hidden_act", "silu"});
}

TEST_F(ConfigTest, Gemma) {
  base_["architectures"] = {"GemmaForCausalLM"};
  ModelConfig c = read({{"hidden_activation", nullptr}, {"hidden_act", "gelu"}});
  EXPECT_EQ(c.family, "gemma");
  EXPECT_EQ(c.d, 256);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_EQ(c.traits.activation, Activation::gelu_tanh);
  EXPECT_EQ(c.traits.norm_offset, 1.0);
  EXPECT_TRUE(c.traits.scaled_embeddings);
  EXPECT_FALSE(c.traits.attention_bias);
  EXPECT_EQ(read({{"head_dim", 64}}).d, 64);
  refuse({{"hidden_activation", "gelu"}}, {"hidden_activation", "gelu_pytorch_tanh"});
  refuse({{"hidden_act", "silu"}}, {"hidden_act", "gelu_pytorch_tanh"});
  refuse({{"attention_bias", true}}, {"attention_bias"});
}

TEST_F(ConfigTest, Gemma2) {
  base_["architectures"] = {"Gemma2ForCausalLM"};
  ModelConfig c = read({{"query_pre_attn_scalar", 64},
                        {"attn_logit_softcapping", 50.0},
                        {"final_logit_softcapping", nullptr},
                        {"sliding_window", 128}});
  EXPECT_EQ(c.family, "gemma2");
  EXPECT_DOUBLE_EQ(c.attention_scale(), 1.0 / 8.0);
  EXPECT_EQ(c.traits.attention_softcap, 50.0);
  EXPECT_EQ(c.traits.logit_softcap, 0.0);
  EXPECT_EQ(c.window_of(0), 128);
  EXPECT_EQ(c.window_of(1), 0);
  EXPECT_EQ(c.window_of(2), 128);
  EXPECT_TRUE(c.traits.output_norms);
  refuse({{"attn_logit_softcapping", 0}}, {"attn_logit_softcapping", "found 0", "null"});
  refuse({{"layer_types", {"full_attention", "sliding_attention", "full_attention"}}}, {"layer_types", "in turn"});
}

TEST_F(ConfigTest, Qwen2) {
  base_["architectures"] = {"Qwen2ForCausalLM"};
  ModelConfig c = read({{"sliding_window", 128}, {"use_sliding_window", false}, {"tie_word_embeddings", true}});
  EXPECT_EQ(c.family, "qwen2");
  EXPECT_TRUE(c.traits.attention_bias);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_EQ(c.traits.sliding_window, 0);
  const int64_t with_biases = c.parameters();
  c.traits.attention_bias = false;
  EXPECT_EQ(with_biases - c.parameters(), 3 * 8 * (8 + 2 * 8));
  refuse({{"use_sliding_window", true}}, {"use_sliding_window", "false"});
}

TEST_F(ConfigTest, WhatIsNotSupportedIsNamedWithWhatIs) {
  refuse({{"architectures", {"MambaForCausalLM"}}},
         {"architectures", "MambaForCausalLM",
          "LlamaForCausalLM, MistralForCausalLM, GemmaForCausalLM, Gemma2ForCausalLM, Qwen2ForCausalLM"});
  refuse({{"architectures", nullptr}}, {"architectures is missing"});
  refuse({{"architectures", "LlamaForCausalLM"}}, {"architectures", "a list of strings"});
  refuse({{"rope_scaling", {{"rope_type", "longrope"}, {"factor", 4}}}},
         {"rope_scaling.rope_type", "\"longrope\"", "default, linear, dynamic, yarn, llama3"});
  refuse(
      {{"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}, {"sliding_attention", {{"rope_theta", 1e4}}}}}},
      {"rope_parameters.full_attention", "all layers"});
  refuse({{"rope_scaling", {{"factor", 4}}}}, {"rope_scaling.type is missing"});
  refuse({{"rope_scaling", {{"type", "linear"}}}}, {"rope_scaling.factor is missing"});
  refuse({{"rope_scaling", "linear"}}, {"rope_scaling", "an object"});
  refuse({{"partial_rotary_factor", 0.5}}, {"partial_rotary_factor", "0.5"});
  refuse({{"hidden_act", "gelu"}}, {"hidden_act", "\"gelu\"", "silu"});
  refuse({{"attention_bias", true}}, {"attention_bias", "found true"});
  refuse({{"mlp_bias", true}}, {"mlp_bias"});
  refuse({{"quantization_config", {{"quant_method", "gptq"}}}}, {"quantization_config", "gptq", "BF16"});
}

TEST_F(ConfigTest, ValuesOutOfRange) {
  refuse({{"hidden_size", nullptr}}, {"hidden_size is missing"});
  refuse({{"hidden_size", "64"}}, {"hidden_size", "found \"64\"", "an integer"});
  refuse({{"hidden_size", 64.5}}, {"hidden_size", "64.5", "an integer"});
  refuse({{"hidden_size", 0}}, {"hidden_size", "found 0"});
  refuse({{"hidden_size", 60}}, {"head_dim", "hidden_size (60)"});
  refuse({{"num_attention_heads", 0}}, {"num_attention_heads", "found 0"});
  refuse({{"num_key_value_heads", 3}}, {"num_key_value_heads", "found 3", "a divisor of the 8"});
  refuse({{"num_key_value_heads", 16}}, {"num_key_value_heads", "found 16", "1 to 8"});
  refuse({{"head_dim", 7}}, {"head_dim", "found 7", "even"});
  refuse({{"num_hidden_layers", -1}}, {"num_hidden_layers", "found -1"});
  refuse({{"vocab_size", 18446744073709551615u}}, {"vocab_size", "an integer"});
  refuse({{"max_position_embeddings", 0}}, {"max_position_embeddings", "found 0"});
  refuse({{"rms_norm_eps", 0}}, {"rms_norm_eps", "found 0"});
  refuse({{"rope_theta", -1}}, {"rope_theta", "found -1"});
  refuse({{"tie_word_embeddings", 1}}, {"tie_word_embeddings", "true or false"});
  json scaling = {{"rope_type", "llama3"},
                  {"factor", 8},
                  {"low_freq_factor", 4},
                  {"high_freq_factor", 4},
                  {"original_max_position_embeddings", 8192}};
  refuse({{"rope_scaling", scaling}}, {"high_freq_factor", "found 4"});
}

TEST_F(ConfigTest, BrokenJson) {
  auto refuse_text = [&](const std::string& text, const std::string& part) {
    std::string path = dir_.write("config.json", text);
    expect_input_error([&] { read_hf_config(path); }, {path, part});
  };
  refuse_text("", "not valid JSON");
  refuse_text("{\"a\": 1", "not valid JSON");
  refuse_text("[1]", "an object is needed");
  refuse_text("{\"a\": 1, \"a\": 2}", "\"a\" occurs twice");
  refuse_text(std::string(100000, '['), "nested deeper");
  expect_input_error([&] { read_hf_config(dir_.file("none.json")); }, {"none.json", "cannot open"});
}

class GgufConfigTest : public ::testing::Test {
 protected:
  static GgufBytes base(const std::string& family = "llama") {
    GgufBytes g;
    g.key("general.architecture", family).key(family + ".block_count", uint32_t{2});
    g.key(family + ".context_length", uint32_t{512}).key(family + ".embedding_length", uint32_t{64});
    g.key(family + ".feed_forward_length", uint32_t{96}).key(family + ".attention.head_count", uint32_t{8});
    g.key(family + ".attention.layer_norm_rms_epsilon", 1e-5f);
    g.tensor("token_embd.weight", {64, 10}, 0, 0);
    return g;
  }
  ModelConfig read(const GgufBytes& g) {
    return read_gguf_config(GgufFile(dir_.write("a.gguf", g.bytes(std::string(64 * 10 * 4, '\0') + factors))));
  }
  void refuse(const GgufBytes& g, std::vector<std::string> parts) {
    parts.push_back(dir_.file("a.gguf"));
    expect_input_error([&] { read(g); }, parts);
  }

  TemporaryDirectory dir_;
  std::string factors = raw(std::vector<float>{1, 1, 2, 8});
};

TEST_F(GgufConfigTest, DefaultsAndScaling) {
  ModelConfig c = read(base());
  EXPECT_EQ(c.Hkv, 8);
  EXPECT_EQ(c.d, 8);
  EXPECT_EQ(c.vocab, 10);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_EQ(c.rope.type, "default");
  EXPECT_EQ(c.rope.theta, 10000.0);
  c = read(base()
               .key("llama.rope.scaling.type", std::string("linear"))
               .key("llama.rope.scaling.factor", 4.0f)
               .key("llama.rope.freq_base", 5e5f));
  EXPECT_EQ(c.rope.type, "linear");
  EXPECT_EQ(c.rope.factor, 4.0);
  EXPECT_EQ(c.rope.theta, 5e5);
  c = read(base().tensor("rope_freqs.weight", {4}, 0, 64 * 10 * 4));
  EXPECT_EQ(c.rope.frequency_factors, (std::vector<float>{1, 1, 2, 8}));
  EXPECT_EQ(c.rope.type, "default");
}

TEST_F(GgufConfigTest, OtherFamilies) {
  ModelConfig gemma = read(
      base("gemma").key("gemma.attention.key_length", uint32_t{32}).key("gemma.attention.value_length", uint32_t{32}));
  EXPECT_EQ(gemma.family, "gemma");
  EXPECT_EQ(gemma.d, 32);
  EXPECT_EQ(gemma.traits.norm_offset, 0.0) << "these files hold 1 + w";
  EXPECT_EQ(gemma.traits.activation, Activation::gelu_tanh);
  EXPECT_TRUE(gemma.traits.scaled_embeddings);

  ModelConfig qwen2 = read(base("qwen2")
                               .key("qwen2.rope.scaling.type", std::string("yarn"))
                               .key("qwen2.rope.scaling.factor", 4.0f)
                               .key("qwen2.rope.scaling.original_context_length", uint32_t{256}));
  EXPECT_TRUE(qwen2.traits.attention_bias);
  EXPECT_EQ(qwen2.rope.type, "yarn");
  EXPECT_EQ(qwen2.rope.original_max_positions, 256);
  EXPECT_DOUBLE_EQ(qwen2.rope.attention_factor, 0.1 * std::log(4.0) + 1.0);
  EXPECT_EQ(qwen2.max_positions, 1024);
  int biases = 0;
  for (const TensorSpec& spec : family_of(qwen2).tensors(qwen2)) {
    EXPECT_EQ(spec.interleaved_heads, 0) << spec.name;
    if (spec.name == "model.layers.1.self_attn.k_proj.bias") {
      EXPECT_EQ(spec.gguf_name, "blk.1.attn_k.bias");
    }
    biases += spec.name.ends_with(".bias");
  }
  EXPECT_EQ(biases, 6);
}

TEST_F(GgufConfigTest, FrequencyFactorsStandForTheScalingOfLlama3) {
  RopeConfig named;
  named.type = "llama3";
  named.factor = 8.0;
  named.original_max_positions = 512;
  RopeConfig plain;
  const int64_t d = 64;
  std::vector<float> scaled = rope_frequencies(named, d), unscaled = rope_frequencies(plain, d);
  for (size_t i = 0; i < scaled.size(); ++i) plain.frequency_factors.push_back(unscaled[i] / scaled[i]);
  EXPECT_EQ(plain.frequency_factors.front(), 1.0f);
  EXPECT_NEAR(plain.frequency_factors.back(), 8.0f, 1e-5f);
  std::vector<float> found = rope_frequencies(plain, d);
  for (size_t i = 0; i < scaled.size(); ++i) EXPECT_NEAR(found[i], scaled[i], kOpF32 * scaled[i]) << i;
}

TEST_F(GgufConfigTest, Refusals) {
  GgufBytes other;
  refuse(other.key("general.architecture", std::string("mamba")),
         {"general.architecture", "\"mamba\"", "llama, gemma, gemma2, qwen2"});
  refuse(GgufBytes(), {"general.architecture is missing"});
  refuse(base().key("llama.rope.scaling.type", std::string("longrope")),
         {"rope.scaling.type", "\"longrope\"", "none, linear, yarn"});
  refuse(base().key("llama.rope.dimension_count", uint32_t{4}), {"rope.dimension_count", "found 4"});
  refuse(base().key("llama.attention.value_length", uint32_t{4}), {"attention.value_length", "found 4"});
  refuse(base().key("llama.expert_count", uint32_t{8}), {"llama.expert_count", "found 8"});
  refuse(base().key("llama.attention.head_count_kv", uint32_t{3}), {"head_count_kv", "found 3"});
  refuse(base().tensor("rope_freqs.weight", {2}, 0, 64 * 10 * 4), {"rope_freqs.weight", "[2]", "[4]"});
  factors = raw(std::vector<float>{1, 0, 2, 8});
  refuse(base().tensor("rope_freqs.weight", {4}, 0, 64 * 10 * 4), {"rope_freqs.weight", "found 0"});
}

}  // namespace
}  // namespace restkv::testing
