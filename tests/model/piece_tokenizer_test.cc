// Tokenizers over characters with byte fallback against the reference implementations: tokenizer.json of the Llama 2,
// Mistral and Gemma kinds, SentencePiece models, and GGUF files made from these.
#include <chrono>
#include <functional>

#include "dist/base/error.h"
#include "model/tokenizer/sentencepiece_tokenizer.h"
#include "tests/model/tokenizer_fixture.h"

namespace restkv {
namespace {

using namespace restkv::testing;
using nlohmann::json;

const std::vector<std::string>& piece_strings() {
  static const auto strings = read_json(tokenizer_data("pieces.json")).get<std::vector<std::string>>();
  return strings;
}

std::string model_bytes(const std::string& name) { return read_bytes(tokenizer_data(name) + "/tokenizer.model"); }

// The fixture's directory without its tokenizer.json.
std::shared_ptr<Tokenizer> load_model_only(const std::string& name, const std::string& config = "{}") {
  TokenizerDirectory directory;
  directory.write("tokenizer.model", model_bytes(name));
  directory.write("tokenizer_config.json", config);
  return load_hf_tokenizer(directory.path());
}

GgufTokenizerData gguf_from_model(const std::string& name) {
  const SentencePieceModel model = parse_sentencepiece_model(model_bytes(name), name);
  GgufTokenizerData data;
  data.origin = name + ".gguf";
  data.model = "llama";
  for (const auto& piece : model.pieces) {
    data.tokens.push_back(piece.text);
    data.scores.push_back(piece.score);
    data.token_type.push_back(piece.type);
  }
  data.bos = model.bos_id;
  data.eos = model.eos_id;
  if (!model.add_dummy_prefix) data.add_space_prefix = false;
  return data;
}

// What the sentencepiece library gives, to which special tokens are text like any other.
std::vector<Ids> plain_ids(const std::string& name) {
  std::vector<Ids> ids = read_ids(name);
  const std::vector<Ids> other = read_ids(name + ".plain");
  EXPECT_EQ(ids.size(), other.size());
  for (size_t i = 0; i < ids.size(); ++i)
    if (!other[i].empty()) ids[i] = other[i];
  return ids;
}

std::string streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_EQ(first_invalid_utf8(part), std::string_view::npos);
    text += part;
  }
  return text + decoder.finish();
}

void expect_same_texts(const Tokenizer& tokenizer, const std::string& name) {
  const json rows = read_json(tokenizer_data(name + ".decoded.json"));
  ASSERT_GE(rows.size(), 600u);
  int same = 0;
  for (const json& row : rows) {
    const Ids ids = row[0].get<Ids>();
    for (const bool skip : {true, false}) {
      const auto expected = row[skip ? 1 : 2].get<std::string>();
      EXPECT_EQ(tokenizer.decode(ids, skip), expected) << row.dump();
      same += streamed(tokenizer, ids, skip) == expected;
    }
  }
  // The others have characters before the first invalid byte of a run: StreamOfBytes shows what becomes of them.
  EXPECT_GT(same, 900);
}

class Pieces : public ::testing::TestWithParam<const char*> {};

TEST_P(Pieces, IdsEqualTheReference) {
  ASSERT_EQ(piece_strings().size(), 2000u);
  expect_same_ids(*load_hf_tokenizer(tokenizer_data(GetParam())), piece_strings(), read_ids(GetParam()), true);
}

TEST_P(Pieces, SentencePieceModelGivesTheReferenceIds) {
  expect_same_ids(*load_model_only(GetParam()), piece_strings(), plain_ids(GetParam()), false);
}

TEST_P(Pieces, GgufMetadataGivesTheReferenceIds) {
  expect_same_ids(*make_gguf_tokenizer(gguf_from_model(GetParam())), piece_strings(), plain_ids(GetParam()), false);
}

TEST_P(Pieces, RandomIdsDecodeAsInTheReference) {
  expect_same_texts(*load_hf_tokenizer(tokenizer_data(GetParam())), GetParam());
  expect_same_texts(*load_model_only(GetParam()), GetParam());
  expect_same_texts(*make_gguf_tokenizer(gguf_from_model(GetParam())), GetParam());
}

TEST_P(Pieces, TextComesBack) {
  const bool prefix = GetParam() != std::string("gemma");
  for (const auto& tokenizer : {load_hf_tokenizer(tokenizer_data(GetParam())), load_model_only(GetParam())})
    for (const std::string& text : piece_strings()) {
      if (text.find("\u2581") != std::string::npos) continue;  // the sign for a space becomes one
      const std::string back = tokenizer->decode(tokenizer->encode(text, false), false);
      // Metaspace puts no space before text that begins with one, and the decoder takes it away all the same.
      const bool lost = prefix && GetParam() == std::string("mistral3") && text.starts_with(' ');
      EXPECT_TRUE(back == text || (lost && back == text.substr(1))) << json(text) << json(back);
    }
}

TEST_P(Pieces, BosAndEos) {
  const bool gemma = GetParam() == std::string("gemma");
  for (const auto& tokenizer : {load_hf_tokenizer(tokenizer_data(GetParam())), load_model_only(GetParam()),
                                make_gguf_tokenizer(gguf_from_model(GetParam()))}) {
    EXPECT_EQ(tokenizer->bos_text(), gemma ? "<bos>" : "<s>");
    EXPECT_EQ(tokenizer->eos_text(), gemma ? "<eos>" : "</s>");
    EXPECT_TRUE(tokenizer->add_bos());
    EXPECT_FALSE(tokenizer->add_eos());
    EXPECT_TRUE(tokenizer->is_special(tokenizer->bos()));
    EXPECT_EQ(tokenizer->encode(tokenizer->bos_text(), true), Ids{tokenizer->bos()});
    for (const int32_t id : tokenizer->encode(tokenizer->bos_text() + tokenizer->eos_text(), false))
      EXPECT_FALSE(tokenizer->is_special(id));
    EXPECT_EQ(tokenizer->id_of(tokenizer->eos_text()), tokenizer->eos());
    EXPECT_EQ(tokenizer->leading_spaces(), gemma ? 0 : 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Pieces, ::testing::Values("llama2", "mistral3", "gemma"),
                         [](const auto& info) { return info.param; });

// tokenizer.json and tokenizer.model describe the same tokenizer, special tokens included. (That of Mistral v0.3 puts a
// space before the text only, its SentencePiece model before every part.)
TEST(PieceTokenizer, ModelFileAndGgufAgreeWithTokenizerJson) {
  for (const char* name : {"llama2", "gemma"}) {
    SCOPED_TRACE(name);
    expect_same_ids(*load_model_only(name), piece_strings(), read_ids(name), true);
    expect_same_ids(*make_gguf_tokenizer(gguf_from_model(name)), piece_strings(), read_ids(name), true);
  }
}

TEST(PieceTokenizer, UnigramModelsWithNormalizationRules) {
  const auto tokenizer = load_model_only("unigram");
  EXPECT_NE(tokenizer->describe().find("SentencePiece unigram (tokenizer.model), 500 tokens"), std::string::npos)
      << tokenizer->describe();
  // Of cuts that score the same, the library's versions take different ones: "=" and "==" of "===".
  std::vector<Ids> expected = read_ids("unigram");
  std::vector<std::string> strings;
  for (size_t i = expected.size(); i-- > 0;) {
    const bool tie = piece_strings()[i].find("===") != std::string::npos;
    if (tie) expected.erase(expected.begin() + static_cast<int64_t>(i));
    if (!tie) strings.insert(strings.begin(), piece_strings()[i]);
  }
  EXPECT_GT(strings.size(), 1900u);
  expect_same_ids(*tokenizer, strings, expected, false);
}

TEST(PieceTokenizer, EveryStepOfThePipeline) {
  const json good = read_json(tokenizer_data("llama2") + "/tokenizer.json");
  const json fixture = read_json(tokenizer_data("piece_variants.json"));
  const auto strings = fixture["strings"].get<std::vector<std::string>>();
  ASSERT_GE(fixture["variants"].size(), 20u);
  for (const json& variant : fixture["variants"]) {
    SCOPED_TRACE(variant["change"].dump());
    json changed = good;
    for (const json& change : variant["change"]) {
      const json::json_pointer at(change[0].get<std::string>());
      if (change[1].is_null() && at.parent_pointer() == "/model/vocab"_json_pointer)
        changed["model"]["vocab"].erase(at.back());
      else
        changed[at] = change[1];
    }
    const TokenizerDirectory directory(changed.dump());
    const auto tokenizer = load_hf_tokenizer(directory.path());
    const auto ids = variant["ids"].get<std::vector<Ids>>();
    expect_same_ids(*tokenizer, strings, ids, true);
    for (size_t i = 0; i < variant["texts"].size(); ++i)
      EXPECT_EQ(tokenizer->decode(ids[i], true), variant["texts"][i].get<std::string>());
  }
}

TEST(PieceTokenizer, StreamOfBytesShowsCharactersAsSoonAsTheyAreWhole) {
  for (const auto& tokenizer : {load_hf_tokenizer(tokenizer_data("llama2")), load_model_only("llama2")}) {
    const auto byte = [&](int value) { return tokenizer->id_of(std::string(1, static_cast<char>(value))); };
    ASSERT_TRUE(tokenizer->is_byte(byte(0xF0)));
    StreamDecoder decoder(*tokenizer);
    EXPECT_EQ(decoder.push(byte(0xF0)), "");
    EXPECT_EQ(decoder.push(byte(0x9F)), "");
    EXPECT_EQ(decoder.push(tokenizer->bos()), "");  // special tokens are not there, and end no run
    EXPECT_EQ(decoder.push(byte(0x98)), "");
    EXPECT_EQ(decoder.push(byte(0x80)), "😀");
    EXPECT_EQ(decoder.push(byte(0xE2)), "");
    EXPECT_EQ(decoder.push(byte(0xE2)), "\uFFFD\uFFFD");  // now the run is invalid
    EXPECT_EQ(decoder.push(byte(0xC3)), "\uFFFD");        // and stays so
    EXPECT_EQ(decoder.push(tokenizer->id_of("a")), "a");  // until it ends
    EXPECT_EQ(decoder.push(byte(0xC3)), "");
    EXPECT_EQ(decoder.push(tokenizer->id_of(" ")), "\uFFFD ");
    EXPECT_EQ(decoder.push(byte(0xE4)), "");
    EXPECT_EQ(decoder.push(byte(0xBD)), "");
    EXPECT_EQ(decoder.finish(), "\uFFFD\uFFFD");
    EXPECT_EQ(decoder.finish(), "");
  }
}

TEST(PieceTokenizer, OneSpaceIsTakenFromTheBeginningOfTheStream) {
  const auto tokenizer = load_hf_tokenizer(tokenizer_data("llama2"));
  const int32_t space = tokenizer->id_of(" ");
  for (const bool skip : {true, false}) {
    StreamDecoder decoder(*tokenizer, skip);
    if (skip) {
      EXPECT_EQ(decoder.push(tokenizer->bos()), "");
    }
    EXPECT_EQ(decoder.push(space), "");
    EXPECT_EQ(decoder.push(space), " ");
    EXPECT_EQ(decoder.push(tokenizer->id_of("a")), "a");
    EXPECT_EQ(decoder.push(space), " ");
  }
  StreamDecoder shown(*tokenizer, false);
  EXPECT_EQ(shown.push(tokenizer->bos()), "<s>");
  EXPECT_EQ(shown.push(space), " ");
}

TEST(PieceTokenizer, TokenizerJsonWinsOverTokenizerModel) {
  TokenizerDirectory directory(read_bytes(tokenizer_data("llama2") + "/tokenizer.json"));
  directory.write("tokenizer.model", "not read");
  EXPECT_NE(load_hf_tokenizer(directory.path())->describe().find("(tokenizer.json)"), std::string::npos);
}

TEST(PieceTokenizer, ConfigSaysWhatIsPutAroundTheText) {
  const auto rules = [](const std::string& config) {
    const auto tokenizer = load_model_only("llama2", config);
    const TokenizerDirectory directory(read_bytes(tokenizer_data("llama2") + "/tokenizer.json"), config);
    const auto other = load_hf_tokenizer(directory.path());
    EXPECT_EQ(tokenizer->add_bos(), other->add_bos()) << config;
    EXPECT_EQ(tokenizer->add_eos(), other->add_eos()) << config;
    return std::pair(tokenizer->add_bos(), tokenizer->add_eos());
  };
  EXPECT_EQ(rules("{}"), std::pair(true, false));
  EXPECT_EQ(rules(R"({"add_bos_token": false})"), std::pair(false, false));
  EXPECT_EQ(rules(R"({"add_eos_token": true, "eos_token": "</s>"})"), std::pair(true, true));
  EXPECT_EQ(rules(R"({"add_bos_token": true, "add_eos_token": false, "bos_token": "<s>"})"), std::pair(true, false));

  json document = read_json(tokenizer_data("llama2") + "/tokenizer.json");
  document["post_processor"]["single"].push_back({{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}});
  const TokenizerDirectory around(document.dump());
  const auto tokenizer = load_hf_tokenizer(around.path());
  EXPECT_TRUE(tokenizer->add_eos());
  EXPECT_EQ(tokenizer->eos_text(), "</s>");

  GgufTokenizerData data = gguf_from_model("llama2");
  data.add_bos = false;
  data.add_eos = true;
  const auto gguf = make_gguf_tokenizer(data);
  EXPECT_FALSE(gguf->add_bos());
  EXPECT_TRUE(gguf->add_eos());
}

// added_tokens_decoder and the named special tokens of tokenizer_config.json.
TEST(PieceTokenizer, AddedTokensOfTheConfig) {
  const std::string config = R"({"bos_token": "<s>", "eos_token": "<|end|>", "added_tokens_decoder": {
      "1": {"content": "<s>", "special": true, "rstrip": true, "normalized": false},
      "900": {"content": "<|end|>", "special": true, "normalized": false},
      "901": {"content": "<tool>", "special": false, "normalized": false}}, "pad_token": "a"})";
  const TokenizerDirectory directory(read_bytes(tokenizer_data("llama2") + "/tokenizer.json"), config);
  for (const auto& tokenizer : {load_hf_tokenizer(directory.path()), load_model_only("llama2", config)}) {
    EXPECT_EQ(tokenizer->vocab_size(), 902);
    EXPECT_EQ(tokenizer->eos(), 900);
    EXPECT_EQ(tokenizer->encode("<s>   <|end|><tool>", true), (Ids{1, 900, 901}));
    EXPECT_EQ(tokenizer->encode("<tool>", false), Ids{901});
    EXPECT_EQ(tokenizer->decode({1, 900, 901}, true), "<tool>");
    const int32_t pad = tokenizer->id_of("a");
    EXPECT_TRUE(tokenizer->is_special(pad));
    EXPECT_EQ(tokenizer->encode("<s>a<s>", true), (Ids{1, pad, 1}));
  }
  TokenizerDirectory old;
  old.write("tokenizer.model", model_bytes("llama2"));
  old.write("added_tokens.json", R"({"<extra>": 900})");
  old.write("special_tokens_map.json", R"({"eos_token": {"content": "<extra>"}})");
  const auto tokenizer = load_hf_tokenizer(old.path());
  EXPECT_EQ(tokenizer->eos(), 900);
  EXPECT_EQ(tokenizer->encode("<extra>", true), Ids{900});
}

TEST(PieceTokenizer, ModelFilesAreReadAndWrittenAlike) {
  for (const char* name : {"llama2", "mistral3", "gemma", "unigram"}) {
    const SentencePieceModel model = parse_sentencepiece_model(model_bytes(name), name);
    const SentencePieceModel again = parse_sentencepiece_model(write_sentencepiece_model(model), name);
    ASSERT_EQ(model.pieces.size(), again.pieces.size());
    for (size_t i = 0; i < model.pieces.size(); ++i) {
      EXPECT_EQ(model.pieces[i].text, again.pieces[i].text);
      EXPECT_EQ(model.pieces[i].score, again.pieces[i].score);
      EXPECT_EQ(model.pieces[i].type, again.pieces[i].type);
    }
    EXPECT_EQ(again.byte_fallback, name != std::string("unigram"));
    EXPECT_EQ(again.add_dummy_prefix, name != std::string("gemma"));
    EXPECT_EQ(again.remove_extra_whitespaces, name == std::string("unigram"));
    EXPECT_EQ(again.bos_id, name == std::string("gemma") ? 2 : 1);
    EXPECT_EQ(again.unk_id, name == std::string("gemma") ? 3 : 0);
  }
}

std::string refusal(const std::function<void()>& load) {
  try {
    load();
    return "accepted";
  } catch (const InputError& error) {
    return error.what();
  }
}

TEST(PieceTokenizer, BadFilesAreRefused) {
  const auto model_message = [](const std::string& bytes, const std::string& config = "{}") {
    return refusal([&] {
      TokenizerDirectory directory;
      directory.write("tokenizer.model", bytes);
      directory.write("tokenizer_config.json", config);
      load_hf_tokenizer(directory.path());
    });
  };
  const std::string good = model_bytes("llama2");
  const std::pair<std::string, const char*> cases[] = {
      {model_message(good), "accepted"},
      {model_message("IQ== 0\nIg== 1\n"), "tokenizer.model: not a SentencePiece model"},
      {model_message(good.substr(0, good.size() / 2)), "tokenizer.model: "},
      {model_message(std::string("\x12\x00", 2)), "tokenizer.model: not a SentencePiece model: it has no pieces"},
      {model_message(good, R"({"eos_token": "nope"})"),
       "tokenizer.model: the eos_token 'nope' is not in the vocabulary"},
      {model_message(good, R"({"added_tokens_decoder": {"x": {"content": "a"}}})"),
       "tokenizer_config.json: added_tokens_decoder.x: 'x' is not an id"},
      {model_message(good, R"({"add_bos_token": 1})"), "add_bos_token: found number, expected true or false"},
  };
  for (const auto& [message, expected] : cases) EXPECT_NE(message.find(expected), std::string::npos) << message;
  EXPECT_NE(refusal([] {
              TokenizerDirectory directory;
              directory.write("tekken.json", "{}");
              load_hf_tokenizer(directory.path());
            }).find("tekken.json is not supported alone; supported: tokenizer.json, tokenizer.model"),
            std::string::npos);
}

TEST(PieceTokenizer, BadGgufMetadataIsRefused) {
  using Data = GgufTokenizerData;
  const std::pair<std::function<void(Data&)>, const char*> cases[] = {
      {[](Data&) {}, "accepted"},
      {[](Data& d) { d.scores.clear(); }, "scores 0, token_type 900; they must be as many"},
      {[](Data& d) { d.token_type[3] = 9; }, "tokenizer.ggml.token_type[3] is 9; allowed: 1 to 6"},
      {[](Data& d) { d.tokens[300] = "\xff"; }, "tokenizer.ggml.tokens[300]: invalid UTF-8"},
      {[](Data& d) { d.tokens[300] = d.tokens[301]; }, "the sentencepiece library refuses the model"},
      {[](Data& d) { d.tokens.clear(); }, "tokenizer.ggml.tokens is missing or empty"},
      {[](Data& d) { d.bos = 900; }, "tokenizer.ggml.bos_token_id is 900; allowed: 0 to 899"},
      {[](Data& d) { d.token_type[10] = 1; }, "the sentencepiece library refuses the model"},
  };
  for (const auto& [spoil, expected] : cases) {
    Data data = gguf_from_model("llama2");
    spoil(data);
    const std::string message = refusal([&] { make_gguf_tokenizer(std::move(data)); });
    EXPECT_NE(message.find(expected), std::string::npos) << message;
  }
  Data data = gguf_from_model("llama2");
  data.token_type[0] = 1;  // no unknown token, as in some files
  expect_same_ids(*make_gguf_tokenizer(data), {"a b", "ñ"},
                  {load_model_only("llama2")->encode("a b", false), load_model_only("llama2")->encode("ñ", false)},
                  false);
}

TEST(PieceTokenizer, TokenizerJsonOutsideTheSupportedPartIsRefused) {
  const json good = read_json(tokenizer_data("llama2") + "/tokenizer.json");
  const std::tuple<const char*, json, const char*> cases[] = {
      {"/model/type", "Unigram",
       "model.type: found 'Unigram'; supported: BPE, over bytes (pre_tokenizer ByteLevel) or over"},
      {"/normalizer",
       {{"type", "Lowercase"}},
       "normalizer: found type 'Lowercase'; supported: null, NFC, Prepend, Replace"},
      {"/normalizer/normalizers/1/pattern",
       {{"Regex", " "}},
       "normalizer.normalizers[1].pattern: supported: a \"String\""},
      {"/decoder", nullptr, "decoder: found none; supported: Replace, ByteFallback, Fuse, Strip"},
      {"/decoder", {{"type", "Metaspace"}}, "decoder: found type 'Metaspace'; supported: Replace"},
      {"/decoder/decoders/3/stop", 1, "decoder.decoders[3].stop: supported: 0"},
      {"/decoder/decoders/0/content", "_", "decoder.decoders[0].content: found '_'; supported: a space"},
      {"/decoder/decoders/2", {{"type", "ByteFallback"}}, "decoder: found type 'ByteFallback'; supported: Replace"},
      {"/pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "ab"}},
       "replacement: found 'ab'; expected one character"},
      {"/pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}},
       "prepend_scheme: found 'last'; supported: never, first, always"},
      {"/post_processor/single/0", {{"Sequence", {{"id", "A"}}}}, "expected a SpecialToken, or the Sequence once"},
  };
  for (const auto& [pointer, value, expected] : cases) {
    json changed = good;
    changed[json::json_pointer(pointer)] = value;
    const TokenizerDirectory directory(changed.dump());
    const std::string message = refusal([&] { load_hf_tokenizer(directory.path()); });
    EXPECT_NE(message.find(expected), std::string::npos) << message << "\n  expected: " << expected;
  }
}

TEST(PieceTokenizer, ChangedModelFilesNeverCrash) {
  std::mt19937 rng(6);
  for (const char* name : {"llama2", "gemma", "unigram"}) {
    const std::string good = model_bytes(name);
    for (int i = 0; i < 100; ++i) {
      std::string bytes = good;
      for (int change = 1 + static_cast<int>(rng() % 3); change > 0; --change) {
        // The end holds the settings.
        const size_t at = bytes.size() - 1 - rng() % (rng() % 2 ? bytes.size() : 200);
        if (rng() % 3 == 0)
          bytes.erase(at, rng() % 20);
        else
          bytes[at] = static_cast<char>(rng());
      }
      try {
        SentencePieceParts parts;
        parts.origin = name;
        parts.model = parse_sentencepiece_model(bytes, name);
        parse_sentencepiece_model(write_sentencepiece_model(parts.model), name);
        parts.serialized = std::move(bytes);
        const auto tokenizer = make_sentencepiece_tokenizer(std::move(parts));
        const Ids ids = tokenizer->encode("Hello, world 123 \n\t <s> naïve 你好", true);
        EXPECT_EQ(first_invalid_utf8(tokenizer->decode(ids, false)), std::string_view::npos);
      } catch (const InputError&) {
      }
    }
  }
}

// Without a pre-tokenizer the whole text is one word.
TEST(PieceTokenizer, LongTextsAreFast) {
  std::string text;
  for (size_t i = 0; text.size() < 1'000'000; ++i) text += piece_strings()[i % 2000] + " words and more words ";
  for (const char* name : {"llama2", "mistral3", "gemma"})
    for (const auto& tokenizer : {load_hf_tokenizer(tokenizer_data(name)), load_model_only(name)}) {
      const auto begin = std::chrono::steady_clock::now();
      const Ids ids = tokenizer->encode(text, true);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      EXPECT_LT(seconds.count(), 20.0) << name;
      EXPECT_GT(ids.size(), 200'000u);
      RecordProperty(std::string(name) + tokenizer->describe().substr(0, 8), std::to_string(seconds.count()));
    }
  for (const char* unit : {" ", "a", "\n", "ab", "é", "\u2581", "<", "<s>"}) {
    std::string run;
    while (run.size() < 100'000) run += unit;
    for (const auto& tokenizer : {load_hf_tokenizer(tokenizer_data("llama2")), load_model_only("llama2")})
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(run, false), false),
                std::string_view(unit) == "\u2581" ? std::string(33334, ' ') : run)
          << unit;
  }
}

}  // namespace
}  // namespace restkv
