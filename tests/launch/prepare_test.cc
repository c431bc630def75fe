// From a prompt as given to the tokens that the model reads.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "dist/base/error.h"
#include "launch/prompts/prompts.h"
#include "model/tokenizer/load.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

class Prepare : public ::testing::Test {
 protected:
  Prepare() { config_.file = "run.yaml"; }

  std::vector<Request> prepare(const std::vector<PromptSource>& prompts) {
    return prepare_requests(prompts, checkpoint_, config_);
  }
  std::string error_of(const std::vector<PromptSource>& prompts) {
    return testing::message_of<InputError>([&] { prepare(prompts); });
  }
  std::string text_of(const Request& request) { return checkpoint_.tokenizer->decode(request.tokens, false); }

  static PromptSource text(const std::string& text, const std::string& id = "") { return {id, "p.jsonl:1", text, {}}; }
  static PromptSource messages(std::vector<ChatMessage> list) { return {"", "p.jsonl:1", "", std::move(list)}; }

  testing::TinyModel model_;
  Checkpoint checkpoint_ = open_checkpoint(model_.path());
  RunConfig config_;
};

TEST_F(Prepare, ChatTemplateOrTheTextAsItStands) {
  EXPECT_EQ(text_of(prepare({text("hi")})[0]), "<user>hi\n<assistant>");
  config_.prompt.system = "Be brief.";
  EXPECT_EQ(text_of(prepare({text("hi")})[0]), "<system>Be brief.\n<user>hi\n<assistant>");
  config_.prompt.system.clear();
  config_.prompt.chat = ChatChoice::none;
  EXPECT_EQ(text_of(prepare({text("hi")})[0]), "hi");
  checkpoint_.chat_template.clear();
  config_.prompt.chat = ChatChoice::automatic;
  EXPECT_EQ(text_of(prepare({text("hi")})[0]), "hi");
}

// The trained SentencePiece tokenizer of the fixtures ("<s>" 1, "</s>" 2), as each tokenizer_config.json asks for it.
TEST_F(Prepare, WhatTheTokenizerPutsAroundARawText) {
  auto around = [&](const char* flags, const std::string& prompt) {
    testing::TempDir dir;
    std::filesystem::copy(RESTKV_TEST_DATA "/tokenizer/llama2/tokenizer.json", dir.path("tokenizer.json"));
    dir.write("tokenizer_config.json", fmt::format(R"({{"bos_token": "<s>", "eos_token": "</s>"{}}})", flags));
    checkpoint_.tokenizer = load_hf_tokenizer(dir.path(""));
    const std::vector<int32_t> tokens = prepare({text(prompt)})[0].tokens;
    auto is = [&](int32_t token) { return std::count(tokens.begin(), tokens.end(), token); };
    EXPECT_EQ(is(1), tokens.front() == 1) << prompt;
    EXPECT_EQ(is(2), tokens.back() == 2) << prompt;
    return std::pair(tokens.front() == 1, tokens.back() == 2);
  };
  const std::pair neither(false, false), first(true, false), last(false, true), both(true, true);
  config_.prompt.chat = ChatChoice::none;
  EXPECT_EQ(around("", "hi"), first) << "the post-processor's rule";
  EXPECT_EQ(around(R"(, "add_bos_token": false)", "hi"), neither);
  EXPECT_EQ(around(R"(, "add_eos_token": true)", "hi"), both);
  EXPECT_EQ(around(R"(, "add_bos_token": false, "add_eos_token": true)", "hi"), last);
  EXPECT_EQ(around(R"(, "add_eos_token": true)", "<s>hi</s>"), both) << "none is put twice";
  EXPECT_EQ(around(R"(, "add_bos_token": false)", "<s>hi</s>"), both) << "what the text spells stays";
  config_.prompt.max_tokens = 3;
  EXPECT_EQ(around(R"(, "add_eos_token": true)", "a long text that is cut in its middle"), both);
  config_.prompt = {};
  EXPECT_EQ(around(R"(, "add_eos_token": true)", "hi"), neither) << "a chat template writes its own";
}

TEST_F(Prepare, WhatNeedsATemplateSaysSo) {
  PromptSource chat = messages({{"user", "hi"}});
  EXPECT_EQ(text_of(prepare({chat})[0]), "<user>hi\n<assistant>");
  config_.prompt.chat = ChatChoice::none;
  EXPECT_EQ(error_of({chat}), "p.jsonl:1: found \"messages\", but prompt.chat is none; expected \"prompt\"");
  config_.prompt.chat = ChatChoice::automatic;
  checkpoint_.chat_template.clear();
  EXPECT_EQ(error_of({chat}), "p.jsonl:1: found \"messages\", but the model has no chat template; expected \"prompt\"");
  config_.prompt.system = "s";
  EXPECT_EQ(error_of({text("hi")}),
            "run.yaml: prompt.system is given, but the model has no chat template; expected no prompt.system");
}

TEST_F(Prepare, OneSystemMessage) {
  config_.prompt.system = "s";
  EXPECT_EQ(error_of({messages({{"system", "t"}, {"user", "u"}})}),
            "p.jsonl:1: the messages begin with a system message, and prompt.system gives one too; expected one");
}

TEST_F(Prepare, AModelWithoutTokenizerReadsNoText) {
  checkpoint_.tokenizer = nullptr;
  EXPECT_NE(error_of({text("hi")}).find("the model has no tokenizer"), std::string::npos);
}

TEST_F(Prepare, ShorteningKeepsBothEnds) {
  config_.prompt.chat = ChatChoice::none;
  config_.prompt.max_tokens = 5;
  Request request = prepare({text("abcdefghij")})[0];
  EXPECT_EQ(text_of(request), "abcij");
  EXPECT_EQ(request.removed_tokens, 5);
  EXPECT_EQ(text_of(prepare({text("abcde")})[0]), "abcde");
  EXPECT_EQ(prepare({text("abcde")})[0].removed_tokens, 0);
}

TEST_F(Prepare, PositionsAndBudget) {
  config_.prompt.chat = ChatChoice::none;
  EXPECT_EQ(prepare({text(std::string(4096, 'a'))})[0].tokens.size(), 4096u);
  std::string longer = error_of({text("ok"), text(std::string(4097, 'a'))});
  EXPECT_NE(longer.find("p.jsonl:1: the prompt has 4097 tokens, but "), std::string::npos) << longer;
  config_.cache.budget = {0, 0.1};  // 32 tokens of 320 are the window alone
  EXPECT_EQ(
      error_of({text(std::string(320, 'a'))}),
      "p.jsonl:1: cache.budget is 32 tokens for this prompt of 320, but cache.window is 32; expected a budget of at "
      "least 33 tokens");
  EXPECT_NO_THROW(prepare({text(std::string(321, 'a'))}));
  config_.cache.policy = "full";
  EXPECT_NO_THROW(prepare({text(std::string(320, 'a'))}));
}

TEST_F(Prepare, QuestionsShareTheirContext) {
  PromptSource prompt = text("It is red.", "a");
  prompt.questions = {"What is?", "What was?", "Why?"};
  auto parts = [&](const Request& r) {
    const std::vector<int32_t> context(r.tokens.begin(), r.tokens.begin() + r.context);
    return std::pair(checkpoint_.tokenizer->decode(context, false),
                     checkpoint_.tokenizer->decode({r.tokens.begin() + r.context, r.tokens.end()}, false));
  };
  // "What " is common to two questions, but not to a conversation without any.
  std::vector<Request> requests = prepare({text("x"), prompt});
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_EQ(requests[0].context, static_cast<int64_t>(requests[0].tokens.size()));
  const char* const questions[] = {"What is?\n<assistant>", "What was?\n<assistant>", "Why?\n<assistant>"};
  for (size_t i = 0; i < 3; ++i) {
    const Request& r = requests[i + 1];
    EXPECT_EQ(parts(r), std::pair(std::string("<user>It is red.\n\n"), std::string(questions[i])));
    EXPECT_EQ(r.id, fmt::format("a#{}", i + 1));
    EXPECT_EQ(r.origin, fmt::format("p.jsonl:1, question {}", i + 1));
    EXPECT_EQ(r.index, static_cast<int64_t>(i + 1));
    EXPECT_EQ(r.group, 1);
  }
  const RequestSizes sizes = sizes_of(requests);
  EXPECT_EQ(sizes.context, requests[0].context);
  EXPECT_EQ(sizes.fed, static_cast<int64_t>(requests[2].tokens.size()) - requests[2].context);
  EXPECT_TRUE(sizes.shares);

  // One question alone has the same context and the same hash.
  prompt.questions = {"Why?"};
  EXPECT_EQ(prepare({prompt})[0].tokens, requests[3].tokens);
  EXPECT_EQ(prepare({prompt})[0].context, requests[3].context);
  EXPECT_EQ(prepare({prompt})[0].hash, requests[3].hash);
  EXPECT_FALSE(sizes_of(prepare({prompt})).shares);

  config_.prompt.chat = ChatChoice::none;
  EXPECT_EQ(parts(prepare({prompt})[0]), std::pair(std::string("It is red.\n\n"), std::string("Why?")));
  config_.prompt.hold_back = 4;
  EXPECT_EQ(parts(prepare({prompt})[0]), std::pair(std::string("It is re"), std::string("d.\n\nWhy?")));
  config_.prompt.max_tokens = 12;  // the longest question and what is held back stay
  EXPECT_EQ(parts(prepare({prompt})[0]), std::pair(std::string("It i"), std::string("d.\n\nWhy?")));
  EXPECT_EQ(prepare({prompt})[0].removed_tokens, 4);
  config_.prompt.max_tokens = 4;
  EXPECT_EQ(error_of({prompt}),
            "p.jsonl:1: the longest question has 4 tokens, but prompt.max_tokens is 4; expected more than 4");
}

TEST_F(Prepare, HoldingBack) {
  config_.prompt.chat = ChatChoice::none;
  const uint64_t hash = prepare({text("abcdef")})[0].hash;
  config_.prompt.hold_back = 2;
  const Request request = prepare({text("abcdef")})[0];
  EXPECT_EQ(request.tokens.size(), 6u);
  EXPECT_EQ(request.context, 4);
  EXPECT_NE(request.hash, hash);
  config_.prompt.hold_back = 6;
  EXPECT_EQ(error_of({text("abcdef")}),
            "p.jsonl:1: prompt.hold_back is 6, which leaves none of 6 tokens to be read before the eviction; expected "
            "less");
  config_.prompt.hold_back = 10;
  EXPECT_NO_THROW(prepare({text(std::string(4096, 'a'))}));
  const std::string longer = error_of({text(std::string(4100, 'a'))});
  EXPECT_NE(longer.find("10 tokens are fed after the first 4090, but 4096 positions of "), std::string::npos) << longer;
  EXPECT_NE(longer.find(" leave room for 6 (prompt.max_tokens shortens)"), std::string::npos) << longer;
}

TEST_F(Prepare, HashesTellRequestsApart) {
  auto hashes = [&](const std::vector<PromptSource>& prompts) {
    std::vector<uint64_t> out;
    for (const Request& r : prepare(prompts)) out.push_back(r.hash);
    return out;
  };
  auto base = hashes({text("a"), text("b"), text("a"), text("a", "id"), messages({{"user", "a"}})});
  EXPECT_EQ(std::set<uint64_t>(base.begin(), base.end()).size(), base.size());
  // The order does not matter, but how often the same came before does.
  EXPECT_EQ(hashes({text("b"), text("a"), text("a")}), (std::vector<uint64_t>{base[1], base[0], base[2]}));
  config_.prompt.system = "s";
  EXPECT_NE(hashes({text("a")})[0], base[0]);
  config_.prompt.system.clear();
  config_.prompt.max_tokens = 3;
  EXPECT_NE(hashes({text("a")})[0], base[0]);
}

}  // namespace
}  // namespace restkv
