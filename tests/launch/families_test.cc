// A user's way with a checkpoint of every family: its directory, a conversation or a raw text, ids, the answer, and the
// stop token of generation_config.json. tests/data/make_models.py recorded what Hugging Face transformers does.
#include <gtest/gtest.h>

#include <filesystem>

#include "launch/prompts/prompts.h"
#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

namespace fs = std::filesystem;

class Families : public ::testing::TestWithParam<const char*> {
 protected:
  Families() {
    const fs::path data = RESTKV_TEST_DATA, model = data / "models" / GetParam();
    golden_ = nlohmann::json::parse(testing::read_file(model / "golden.json"));
    const fs::path tokenizer = data / "tokenizer" / golden_["tokenizer"].get<std::string>();
    fs::create_directory(path());
    for (const fs::path& file : {model / "config.json", model / "model.safetensors", model / "generation_config.json",
                                 tokenizer / "tokenizer.json", tokenizer / "tokenizer_config.json"})
      fs::create_symlink(file, fs::path(path()) / file.filename());
    fs::create_symlink(data / "chat" / (golden_["template"].get<std::string>() + ".jinja"),
                       fs::path(path()) / "chat_template.jinja");
  }

  std::string path() const { return dir_.path("model"); }

  std::vector<int32_t> ids_of(const PromptSource& prompt, ChatChoice chat) {
    RunConfig config;
    config.cache.policy = "full";
    config.prompt.chat = chat;
    return prepare_requests({prompt}, open_checkpoint(path()), config)[0].tokens;
  }

  testing::TempDir dir_;
  nlohmann::json golden_;
};

TEST_P(Families, IdsOfAConversationAndOfARawText) {
  PromptSource chat{"", "p", "", {}}, raw{"", "p", golden_["raw"], {}};
  for (const auto& message : golden_["messages"]) chat.messages.push_back({message["role"], message["content"]});
  EXPECT_EQ(ids_of(chat, ChatChoice::automatic), golden_["chat_ids"].get<std::vector<int32_t>>());
  EXPECT_EQ(ids_of(raw, ChatChoice::none), golden_["raw_ids"].get<std::vector<int32_t>>());
}

TEST_P(Families, AnswersUntilTheStopTokenOfTheGenerationConfig) {
  dir_.write("prompts.jsonl", nlohmann::json{{"id", "chat"}, {"messages", golden_["messages"]}}.dump() + "\n");
  const std::string config =
      dir_.write("run.yaml", fmt::format("model: {{path: {}}}\nprompt: {{jsonl: {}}}\ncache: {{policy: full}}\n"
                                         "generate: {{max_new_tokens: 24}}\noutput: {{file: {}, resume: false}}\n",
                                         path(), dir_.path("prompts.jsonl"), dir_.path("out.jsonl")));
  for (const char* layout : {"", " --set parallel.tensor=2"}) {
    const testing::Outcome outcome = testing::restkv(2, "run " + config + layout);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  const auto results = testing::read_results(dir_.path("out.jsonl"));
  ASSERT_EQ(results.size(), 2u);
  for (const auto& result : results) {
    EXPECT_EQ(result["text"], golden_["answer"]);
    EXPECT_EQ(result["new_token_ids"], golden_["answer_ids"]);
    EXPECT_EQ(result["stop_reason"], "stop_token");
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Families, ::testing::Values("llama32", "qwen25", "mistral3", "gemma_2b"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace restkv
