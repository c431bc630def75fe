// Whole models on disk: the tiny model that make_gguf_fixtures.py wrote in both formats, and what can be wrong.
#include "model/checkpoint.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tests/model/memory_weights.h"
#include "tests/model/weight_files.h"

namespace restkv::testing {
namespace {

const std::string kTinyDirectory = RESTKV_TEST_DATA "/tiny_llama";
const std::string kTinyGguf = RESTKV_TEST_DATA "/gguf/tiny_llama.gguf";

Range rows_of(const WeightInfo& info) { return {0, info.shape.size() == 1 ? 1 : info.shape[0]}; }

TEST(Checkpoint, BothFormatsHoldTheSameModel) {
  Checkpoint hf = open_checkpoint(kTinyDirectory);
  Checkpoint gguf = open_checkpoint(kTinyGguf);
  EXPECT_EQ(hf.format, "safetensors");
  EXPECT_EQ(gguf.format, "gguf");
  for (const ModelConfig& c : {hf.config, gguf.config}) {
    EXPECT_EQ(c.family, "llama");
    EXPECT_EQ(c.layers, 2);
    EXPECT_EQ(c.hidden, 32);
    EXPECT_EQ(c.intermediate, 48);
    EXPECT_EQ(c.Hq, 4);
    EXPECT_EQ(c.Hkv, 2);
    EXPECT_EQ(c.d, 8);
    EXPECT_EQ(c.vocab, 24);
    EXPECT_EQ(c.max_positions, 256);
    EXPECT_NEAR(c.rms_eps, 1e-5, 1e-12);
    EXPECT_FALSE(c.tied_embeddings);
  }
  std::vector<WeightInfo> list = hf.weights->list();
  ASSERT_EQ(list.size(), 21u);
  ASSERT_EQ(gguf.weights->list().size(), 21u);
  for (const WeightInfo& info : list) {
    ASSERT_EQ(gguf.weights->info(info.name).shape, info.shape) << info.name;
    Range rows = rows_of(info), cols{0, info.shape.back()};
    // Row slices cross heads and cut them; the q and k rows of the GGUF file lie in another order.
    for (Range r : {rows, Range{rows.end / 2, rows.end}, Range{rows.end / 3, rows.end / 3 + 1}})
      for (Range c : {cols, Range{3, 17}})
        EXPECT_EQ(read_f32(*hf.weights, info.name, r, c), read_f32(*gguf.weights, info.name, r, c)) << info.name;
  }
}

TEST(Checkpoint, RotaryRowsReallyDifferInTheFile) {
  GgufFile file(kTinyGguf);
  Checkpoint hf = open_checkpoint(kTinyDirectory);
  std::vector<float> stored = file.read_vector(*file.find_tensor("blk.0.attn_q.weight"));
  std::vector<float> row1(stored.begin() + 32, stored.begin() + 64);
  // Row 1 of the file is the partner of row 0: row d/2 = 4 of the first head.
  EXPECT_EQ(read_f32(*hf.weights, "model.layers.0.self_attn.q_proj.weight", {4, 5}, {0, 32}), row1);
  EXPECT_NE(read_f32(*hf.weights, "model.layers.0.self_attn.q_proj.weight", {1, 2}, {0, 32}), row1);
}

TEST(Checkpoint, StopTokensAndChatTemplate) {
  Checkpoint hf = open_checkpoint(kTinyDirectory);
  EXPECT_EQ(hf.stop_tokens, (std::vector<int32_t>{2, 5}));
  EXPECT_EQ(hf.chat_template, "{{ messages[0]['content'] }}");
  EXPECT_EQ(hf.tokenizer, nullptr);
  Checkpoint gguf = open_checkpoint(kTinyGguf);
  EXPECT_EQ(gguf.stop_tokens, (std::vector<int32_t>{2}));
  EXPECT_EQ(gguf.chat_template, "{{ messages[0]['content'] }}");
}

/// A copy of the tiny directory whose files can be changed.
class TinyCopy {
 public:
  TinyCopy() { fs::copy(kTinyDirectory, dir.path(), fs::copy_options::recursive); }
  Checkpoint open() const { return open_checkpoint(dir.path().string()); }
  void change_config(const char* key, int value) const {
    auto config = nlohmann::json::parse(slurp(dir.file("config.json")));
    config[key] = value;
    dir.write("config.json", config.dump());
  }
  TemporaryDirectory dir;
};

TEST(Checkpoint, WhereStopTokensAndTemplatesComeFrom) {
  TinyCopy tiny;
  tiny.dir.write("generation_config.json", R"({"eos_token_id": 7})");
  EXPECT_EQ(tiny.open().stop_tokens, (std::vector<int32_t>{7}));
  tiny.dir.write("generation_config.json", R"({"eos_token_id": null})");
  EXPECT_EQ(tiny.open().stop_tokens, (std::vector<int32_t>{2})) << "config.json's";
  tiny.dir.write("generation_config.json", R"({"eos_token_id": 24})");
  expect_input_error([&] { tiny.open(); }, {"generation_config.json", "found 24", "0 to 23"});
  tiny.dir.write("generation_config.json", R"({"eos_token_id": "</s>"})");
  expect_input_error([&] { tiny.open(); }, {"generation_config.json", "eos_token_id", "</s>"});
  fs::remove(tiny.dir.file("generation_config.json"));

  tiny.dir.write("tokenizer_config.json", R"({"chat_template": "plain"})");
  EXPECT_EQ(tiny.open().chat_template, "plain");
  tiny.dir.write("chat_template.jinja", "from the file");
  EXPECT_EQ(tiny.open().chat_template, "from the file");
  fs::remove(tiny.dir.file("chat_template.jinja"));
  tiny.dir.write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  expect_input_error([&] { tiny.open(); }, {"tokenizer_config.json", "rag", "default"});
  tiny.dir.write("tokenizer_config.json", R"({"chat_template": 3})");
  expect_input_error([&] { tiny.open(); }, {"tokenizer_config.json", "chat_template", "found 3"});
  fs::remove(tiny.dir.file("tokenizer_config.json"));
  EXPECT_EQ(tiny.open().chat_template, "");
}

TEST(Checkpoint, ConfigurationAndWeightsMustAgree) {
  TinyCopy tiny;
  tiny.change_config("intermediate_size", 50);
  expect_input_error([&] { tiny.open(); }, {"mlp.gate_proj.weight", "[48, 32]", "[50, 32]"});
  tiny.change_config("intermediate_size", 48);
  tiny.change_config("num_hidden_layers", 3);
  expect_input_error([&] { tiny.open(); }, {"no tensor model.layers.2"});
}

TEST(Checkpoint, PathsThatAreNoModel) {
  TemporaryDirectory dir;
  expect_input_error([&] { open_checkpoint(dir.file("none")); }, {dir.file("none"), "does not exist"});
  expect_input_error([&] { open_checkpoint(dir.path().string()); }, {"holds no config.json"});
  expect_input_error([&] { open_checkpoint(dir.write("model.bin", "x")); }, {"model.bin", "neither a directory nor"});
  expect_input_error([&] { open_checkpoint(dir.write("m.gguf", "x")); }, {"m.gguf", "truncated"});
}

TEST(Checkpoint, TruncatedFilesOfARealModel) {
  TemporaryDirectory dir;
  std::string gguf = slurp(kTinyGguf);
  for (size_t cut = 0; cut < gguf.size(); cut += 997) {
    std::string path = dir.write("cut.gguf", gguf.substr(0, cut));
    expect_input_error([&] { open_checkpoint(path); }, {path});
  }
  TinyCopy tiny;
  std::string shard = slurp(tiny.dir.file("model-00002-of-00002.safetensors"));
  for (size_t cut = 0; cut < shard.size(); cut += 997) {
    tiny.dir.write("model-00002-of-00002.safetensors", shard.substr(0, cut));
    expect_input_error([&] { tiny.open(); }, {"model-00002-of-00002.safetensors"});
  }
}

TEST(Checkpoint, QuantisedTensorsThatCannotBeReadAreFoundOnOpen) {
  std::string bytes = slurp(kTinyGguf);
  std::string name = "blk.0.attn_norm.weight";
  size_t type = bytes.find(name) + name.size() + 4 + 8;  // after the number of dimensions and one dimension
  ASSERT_EQ(bytes[type], 0);
  bytes[type] = 26;  // I32: as long as F32
  TemporaryDirectory dir;
  std::string path = dir.write("a.gguf", bytes);
  expect_input_error([&] { open_checkpoint(path); }, {path, "input_layernorm.weight", "I32", "Q4_1"});
}

TEST(MemoryWeights, FitEveryTensorOfTheConfiguration) {
  ModelConfig config = read_hf_config(kTinyDirectory + "/config.json");
  auto weights = random_weights(config, 3);
  check_tensors(*weights, family_of(config).tensors(config));
  EXPECT_EQ(read_f32(*weights, "lm_head.weight", {1, 2}, {5, 6})[0], weights->values("lm_head.weight")[37]);
}

/// SmolLM2-135M-Instruct.Q4_1.gguf, from the file that RESTKV_SMOLLM2 names.
TEST(SmolLm2, OpensAsItsMakersDescribeIt) {
  const char* path = std::getenv("RESTKV_SMOLLM2");
  if (path == nullptr || !fs::exists(path))
    GTEST_SKIP() << "set RESTKV_SMOLLM2 to the path of SmolLM2-135M-Instruct.Q4_1.gguf";
  Checkpoint c = open_checkpoint(path);
  EXPECT_EQ(c.config.layers, 30);
  EXPECT_EQ(c.config.hidden, 576);
  EXPECT_EQ(c.config.intermediate, 1536);
  EXPECT_EQ(c.config.Hq, 9);
  EXPECT_EQ(c.config.Hkv, 3);
  EXPECT_EQ(c.config.d, 64);
  EXPECT_EQ(c.config.vocab, 49152);
  EXPECT_EQ(c.config.max_positions, 8192);
  EXPECT_EQ(c.config.rope.theta, 100000.0);
  EXPECT_TRUE(c.config.tied_embeddings);
  EXPECT_EQ(c.config.parameters(), 134515008);
  EXPECT_EQ(c.stop_tokens, (std::vector<int32_t>{2}));
  EXPECT_NE(c.chat_template.find("<|im_start|>"), std::string::npos);
  ASSERT_NE(c.tokenizer, nullptr);
  EXPECT_EQ(c.tokenizer->vocab_size(), 49152);
  for (const WeightInfo& info : c.weights->list()) {
    auto values =
        read_f32(*c.weights, info.name, {0, std::min<int64_t>(rows_of(info).end, 64)}, {0, info.shape.back()});
    for (float x : values) ASSERT_LT(std::abs(x), 100.0f) << info.name;
  }
}

}  // namespace
}  // namespace restkv::testing
