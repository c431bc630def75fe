// Bad tokenizer files: one clear message for each, and no crash for any.
#include <functional>

#include "dist/base/error.h"
#include "tests/model/tokenizer_fixture.h"

namespace restkv {
namespace {

using namespace restkv::testing;
using nlohmann::json;

std::string gguf_message(const std::function<void(GgufTokenizerData&)>& spoil) {
  GgufTokenizerData data = gguf_from_fixture("smollm", "smollm");
  spoil(data);
  try {
    make_gguf_tokenizer(std::move(data));
    return "accepted";
  } catch (const InputError& error) {
    return error.what();
  }
}

TEST(TokenizerErrors, GgufMetadata) {
  using Data = GgufTokenizerData;
  const std::pair<std::function<void(Data&)>, const char*> cases[] = {
      {[](Data& d) { d.model = "bert"; }, "smollm.gguf: tokenizer.ggml.model is 'bert'; supported: gpt2"},
      {[](Data& d) { d.pre = "tekken"; }, "tokenizer.ggml.pre is 'tekken'; supported: gpt-2, default, smollm, "},
      {[](Data& d) { d.pre = ""; }, "tokenizer.ggml.pre is missing"},
      {[](Data& d) { d.merges.clear(); }, "tokenizer.ggml.merges is missing or empty"},
      {[](Data& d) { d.tokens.clear(), d.token_type.clear(); }, "tokenizer.ggml.tokens is missing or empty"},
      {[](Data& d) { d.tokens[7] = d.tokens[9]; }, "stands twice, with ids 7 and 9"},
      {[](Data& d) { d.tokens[300] = "\xff"; }, "tokenizer.ggml.tokens"},
      {[](Data& d) { d.token_type.pop_back(); }, "they must be as many"},
      {[](Data& d) { d.token_type[3] = 9; }, "tokenizer.ggml.token_type[3] is 9; allowed: 1 to 6"},
      {[](Data& d) { d.merges[5] = "ab"; }, "tokenizer.ggml.merges[5] is 'ab'"},
      {[](Data& d) { d.merges[5] = "a b c"; }, "tokenizer.ggml.merges[5] is 'a b c'"},
      {[](Data& d) { d.merges[5] = "zq qz"; }, "rule 5 ('zq' 'qz') needs the token 'zq'"},
      {[](Data& d) { d.bos = 123456; }, "tokenizer.ggml.bos_token_id is 123456; allowed: 0 to 999"},
      {[](Data& d) { d.eos = -7; }, "tokenizer.ggml.eos_token_id is -7"},
      {[](Data& d) { d.add_bos = true; }, "asks for a bos token"},
  };
  for (const auto& [spoil, expected] : cases) {
    const std::string message = gguf_message(spoil);
    EXPECT_EQ(message.rfind("smollm.gguf: ", 0), 0u) << message;
    EXPECT_NE(message.find(expected), std::string::npos) << message << "\n  expected: " << expected;
  }
}

// "accepted" or the message without the directory.
std::string hf_message(const std::string& text, const std::string& config = "{}") {
  const TokenizerDirectory directory(text, config);
  try {
    load_hf_tokenizer(directory.path());
    return "accepted";
  } catch (const InputError& error) {
    const std::string message = error.what();
    return message.rfind(directory.path(), 0) == 0 ? message.substr(directory.path().size() + 1)
                                                   : "without its file: " + message;
  }
}

TEST(TokenizerErrors, TokenizerJson) {
  const json good = read_json(tokenizer_data("gpt2") + "/tokenizer.json");
  EXPECT_EQ(hf_message(good.dump()), "accepted");
  const json split = {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}};
  const json bytes = {{"type", "ByteLevel"}};
  const auto steps = [](json list) { return json{{"type", "Sequence"}, {"pretokenizers", std::move(list)}}; };
  const auto with = [&](const char* key, json value) {
    json changed = split;
    changed["pattern"] = {{"Regex", "x"}};
    changed[key] = std::move(value);
    return steps({changed, bytes});
  };
  const std::tuple<const char*, json, const char*> cases[] = {
      {"/model", nullptr, "tokenizer.json: model: found null, expected an object"},
      {"/model/type", "Unigram", "tokenizer.json: model.type: found 'Unigram'; supported: BPE"},
      {"/model/byte_fallback", true,
       "model.byte_fallback: found true; supported: false (the pre_tokenizer is ByteLevel"},
      {"/model/dropout", 0.5, "model.dropout: supported: null"},
      {"/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix: found '##'"},
      {"/model/vocab", json::array(), "model.vocab: found array, expected an object"},
      {"/model/vocab", nullptr, "model.vocab is missing or empty"},
      {"/model/vocab/a", "x", "model.vocab.a: found \"x\", expected an integer"},
      {"/model/vocab/a", -1, "model.vocab: token 'a' has id -1; allowed: 0 to "},
      {"/model/vocab/a", 1 << 30, "model.vocab: token 'a' has id 1073741824; allowed: 0 to "},
      {"/model/vocab/a", 66, "model.vocab: id 66 belongs to two tokens"},
      {"/model/merges", nullptr, "model.merges is missing or empty; a BPE tokenizer needs its merges"},
      {"/model/merges", json::array(), "model.merges is missing or empty"},
      {"/model/merges/3", "nospace", "model.merges[3]: found 'nospace'; expected two tokens"},
      {"/model/merges/3", {"qz", "zq"}, "rule 3 ('qz' 'zq') needs the token 'qz'"},
      {"/model/merges/3", 7, "model.merges[3]: found number, expected a string"},
      {"/model/unk_token", "nope", "the unk_token 'nope' is not in the vocabulary"},
      {"/normalizer", {{"type", "NFKC"}}, "normalizer: found type 'NFKC'; supported: null, NFC, Prepend"},
      {"/pre_tokenizer", nullptr, "decoder: found type 'ByteLevel'; supported: Replace, ByteFallback, Fuse, Strip"},
      {"/pre_tokenizer",
       {{"type", "Whitespace"}},
       "pre_tokenizer: found type 'Whitespace'; supported: null, ByteLevel"},
      {"/pre_tokenizer", {{"type", "Metaspace"}}, "pre_tokenizer.replacement: found null, expected a string"},
      {"/pre_tokenizer", steps({split, bytes}),
       "pre_tokenizer.pretokenizers[0].pattern: the regular expression ( does"},
      {"/pre_tokenizer", steps({bytes, bytes}), "found ByteLevel before the end"},
      {"/pre_tokenizer", with("behavior", "Sometimes"), "behavior: found 'Sometimes'; supported: Isolated"},
      {"/pre_tokenizer", with("pattern", {{"Regex", "\\w+"}}), "uses '\\w', which is not supported"},
      {"/pre_tokenizer", with("pattern", {{"String", ""}}), "the pattern is empty"},
      {"/pre_tokenizer", with("pattern", json::object()), "expected either \"Regex\" or \"String\""},
      {"/post_processor", {{"type", "BertProcessing"}}, "post_processor: found type 'BertProcessing'; supported:"},
      {"/decoder",
       {{"type", "WordPiece"}},
       "decoder: found type 'WordPiece'; supported for a byte-level model: ByteLevel"},
      {"/added_tokens/0/id", 70, "tokenizer.json: added token 70 is '<|endoftext|>', which has id 0"},
      {"/added_tokens/3/id", 70, "tokenizer.json: added token 70 is '<mask>', but this id belongs to"},
      {"/added_tokens/3/content", "<|im_end|>", "'<|im_end|>' is added twice"},
      {"/added_tokens/3/content", "", "is empty"},
      {"/added_tokens/3/lstrip", "yes", "added_tokens[3].lstrip: found string, expected true or false"},
  };
  for (const auto& [pointer, value, expected] : cases) {
    json changed = good;
    changed[json::json_pointer(pointer)] = value;
    const std::string message = hf_message(changed.dump());
    EXPECT_EQ(message.rfind("tokenizer.json: ", 0), 0u) << message;
    EXPECT_NE(message.find(expected), std::string::npos) << message << "\n  expected: " << expected;
  }
  EXPECT_NE(hf_message("{").find("tokenizer.json"), std::string::npos);
  EXPECT_NE(hf_message(good.dump(), R"({"eos_token": "nope"})").find("the eos_token 'nope' is not in the vocabulary"),
            std::string::npos);
  EXPECT_NE(hf_message(good.dump(), "[1]").find("tokenizer_config.json"), std::string::npos);
  EXPECT_NE(hf_message(good.dump(), R"({"bos_token": 5})").find("bos_token: found number, expected a string"),
            std::string::npos);
}

// Any change of a file either loads or is refused; what loads can encode and decode.
void load_and_use(const std::string& text) {
  const TokenizerDirectory directory(text);
  try {
    const auto tokenizer = load_hf_tokenizer(directory.path());
    for (const char* sample : {"", "Hello, world 123 \n\t <|im_end|> naïve 你好", "\0a'LL <mask>  wordy"}) {
      const Ids ids = tokenizer->encode(sample, true);
      EXPECT_EQ(first_invalid_utf8(tokenizer->decode(ids, false)), std::string_view::npos);
    }
    tokenizer->describe();
  } catch (const InputError&) {
  }
}

TEST(TokenizerErrors, ChangedBytesNeverCrash) {
  std::mt19937 rng(3);
  for (const char* name : {"gpt2", "llama3"}) {
    std::string good = read_json(tokenizer_data(name) + "/tokenizer.json").dump();
    for (int i = 0; i < 150; ++i) {
      std::string text = good;
      for (int change = 1 + static_cast<int>(rng() % 3); change > 0; --change) {
        const size_t at = rng() % text.size();
        switch (rng() % 4) {
          case 0: text[at] = static_cast<char>(rng()); break;
          case 1: text.erase(at, rng() % 40); break;
          case 2: text.insert(at, text.substr(rng() % text.size(), rng() % 40)); break;
          default: text[at] = "\"{}[],:0-\\e"[rng() % 11];
        }
      }
      load_and_use(text);
    }
    for (const double part : {0.0, 0.01, 0.5, 0.99})
      load_and_use(good.substr(0, static_cast<size_t>(part * good.size())));
  }
}

// Changes that keep the JSON whole, so that they reach the code behind the parser.
TEST(TokenizerErrors, ChangedValuesNeverCrash) {
  std::mt19937 rng(4);
  const json values[] = {nullptr,
                         true,
                         -1,
                         0,
                         1e300,
                         1u << 31,
                         int64_t{1} << 62,
                         "",
                         "a",
                         "a b",
                         "\u0120",
                         json::array(),
                         json::object(),
                         {"a", "b"},
                         {{"type", "Sequence"}}};
  for (const char* name : {"gpt2", "qwen2", "llama2", "mistral3"}) {
    const json good = read_json(tokenizer_data(name) + "/tokenizer.json");
    for (int i = 0; i < 150; ++i) {
      json changed = good;
      json* at = &changed;
      while (at->is_structured() && !at->empty()) {
        auto member = at->begin();
        std::advance(member, rng() % at->size());
        at = &*member;
        if (rng() % 5 == 0) break;
      }
      *at = values[rng() % std::size(values)];
      load_and_use(changed.dump());
    }
  }
}

TEST(TokenizerErrors, DeepNestingIsRefused) {
  json document = read_json(tokenizer_data("gpt2") + "/tokenizer.json");
  json inner = {{"type", "ByteLevel"}};
  for (int i = 0; i < 20; ++i) inner = {{"type", "Sequence"}, {"pretokenizers", json::array({std::move(inner)})}};
  document["pre_tokenizer"] = std::move(inner);
  const std::string message = hf_message(document.dump());
  EXPECT_NE(message.find("nested too deeply"), std::string::npos) << message.substr(0, 300);
}

}  // namespace
}  // namespace restkv
