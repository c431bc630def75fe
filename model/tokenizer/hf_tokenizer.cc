#include <filesystem>
#include <nlohmann/json.hpp>

#include "dist/base/error.h"
#include "model/json_reader.h"
#include "model/tokenizer/byte_level_bpe.h"
#include "model/tokenizer/hf_pre_tokenizer.h"
#include "model/tokenizer/json_value.h"
#include "model/tokenizer/load.h"

namespace restkv {
namespace {

using nlohmann::json;

// Settings of model that change the result and that byte-level models leave off.
void refuse_other_settings(const JsonValue& model) {
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.at(name).string_or("").empty())
      model.at(name).fail(fmt::format("found '{}'; supported: null or empty", model.at(name).string()));
  if (model.at("byte_fallback").boolean_or(false))
    model.at("byte_fallback").fail("found true; supported: false (SentencePiece-style BPE is not supported)");
  const JsonValue dropout = model.at("dropout");
  if (!dropout.is_null() && dropout.json() != 0) dropout.fail("supported: null (dropout is for training)");
}

BpeFile read_model(const JsonValue& model, const std::string& path) {
  const std::string type = model.at("type").string_or("BPE");  // early files do not name it
  if (type != "BPE") model.at("type").fail(fmt::format("found '{}'; supported: BPE (byte-level)", type));
  refuse_other_settings(model);
  BpeFile file;
  file.origin = path;
  file.tokens_key = "model.vocab";
  file.merges_key = "model.merges";
  const JsonValue vocab = model.at("vocab");
  if (!vocab.is_null()) {
    file.tokens.reserve(vocab.object().size());
    for (const auto& [token, id] : vocab.json().items())
      file.tokens.emplace_back(token, JsonValue(id, path, "model.vocab." + token).integer());
  }
  const JsonValue merges = model.at("merges");
  if (merges.is_null()) return file;
  file.merges.reserve(merges.array().size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const JsonValue rule = merges.at(i);
    if (rule.is_array() && rule.size() == 2) {
      file.merges.emplace_back(rule.at(0).string(), rule.at(1).string());
      continue;
    }
    const std::string& text = rule.string();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
      rule.fail(fmt::format("found '{}'; expected two tokens with one space between them", text));
    file.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return file;
}

std::vector<AddedToken> read_added_tokens(const JsonValue& list) {
  std::vector<AddedToken> added;
  if (list.is_null()) return added;
  for (size_t i = 0; i < list.array().size(); ++i) {
    const JsonValue entry = list.at(i);
    AddedToken token;
    token.content = entry.at("content").string();
    const int64_t id = entry.at("id").integer();
    if (id < 0 || id > INT32_MAX) entry.at("id").fail(fmt::format("found {}; ids begin at 0", id));
    token.id = static_cast<int32_t>(id);
    token.special = entry.at("special").boolean_or(false);
    token.single_word = entry.at("single_word").boolean_or(false);
    token.lstrip = entry.at("lstrip").boolean_or(false);
    token.rstrip = entry.at("rstrip").boolean_or(false);
    token.normalized = entry.at("normalized").boolean_or(!token.special);
    for (const AddedToken& other : added)
      if (other.content == token.content)
        entry.fail(fmt::format("'{}' is added twice, with ids {} and {}", token.content, other.id, token.id));
    added.push_back(std::move(token));
  }
  return added;
}

// The token that a post-processor puts before the text; empty for none.
std::string leading_token(const JsonValue& processor, int depth) {
  if (processor.is_null()) return {};
  const std::string& type = processor.at("type").string();
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "Sequence" && depth < 4) {
    std::string leading;
    const JsonValue members = processor.at("processors");
    for (size_t i = 0; i < members.array().size(); ++i) {
      const std::string found = leading_token(members.at(i), depth + 1);
      if (!found.empty() && !leading.empty()) members.fail("only one token before the text is supported");
      if (!found.empty()) leading = found;
    }
    return leading;
  }
  if (type != "TemplateProcessing")
    processor.fail(fmt::format("found type '{}'; supported: ByteLevel, TemplateProcessing, Sequence", type));
  const JsonValue single = processor.at("single");
  const size_t size = single.array().size();
  const bool plain = size == 1 && !single.at(size_t{0}).at("Sequence").is_null();
  const bool led =
      size == 2 && !single.at(size_t{0}).at("SpecialToken").is_null() && !single.at(size_t{1}).at("Sequence").is_null();
  if (!plain && !led) single.fail("supported: the text alone, or one special token before it");
  return led ? single.at(size_t{0}).at("SpecialToken").at("id").string() : std::string();
}

void require_byte_level_decoder(const JsonValue& decoder) {
  if (decoder.is_null()) return;
  const std::string& type = decoder.at("type").string();
  const bool only = type == "Sequence" && decoder.at("decoders").array().size() == 1 &&
                    decoder.at("decoders").at(size_t{0}).at("type").string() == "ByteLevel";
  if (type != "ByteLevel" && !only) decoder.fail(fmt::format("found type '{}'; supported: ByteLevel", type));
}

// bos_token and eos_token of tokenizer_config.json: a string, an object with "content", or null.
std::string token_text(const JsonValue& token) {
  if (token.is_null()) return {};
  return token.is_object() ? token.at("content").string() : token.string();
}

int32_t find_token(const BpeVocabulary& vocabulary, const std::vector<AddedToken>& added, const BpeFile& file,
                   const std::string& text) {
  for (const AddedToken& token : added)
    if (token.content == text) return token.id;
  for (const auto& [token, id] : file.tokens)
    if (token == text && static_cast<size_t>(id) < vocabulary.bytes.size()) return static_cast<int32_t>(id);
  return -1;
}

struct TokenNames {
  std::string bos, eos, leading, unknown;
};

void resolve_names(const TokenNames& names, const BpeFile& file, const std::string& path, ByteLevelBpeParts& parts) {
  const auto id_of = [&](const char* what, const std::string& text) {
    if (text.empty()) return -1;
    const int32_t id = find_token(parts.vocabulary, parts.added, file, text);
    if (id < 0) fail_input("{}: the {} '{}' is not in the vocabulary", path, what, text);
    return id;
  };
  if (!names.leading.empty() && !names.bos.empty() && names.leading != names.bos)
    fail_input("{}: post_processor puts '{}' before the text, but bos_token is '{}'", path, names.leading, names.bos);
  parts.bos = id_of("bos_token", names.bos.empty() ? names.leading : names.bos);
  parts.eos = id_of("eos_token", names.eos);
  parts.unknown = id_of("unk_token", names.unknown);
  parts.add_bos = !names.leading.empty();
}

}  // namespace

std::shared_ptr<Tokenizer> load_hf_tokenizer(const std::string& directory) {
  const std::filesystem::path folder(directory);
  const std::string path = (folder / "tokenizer.json").string();
  const std::string config_path = (folder / "tokenizer_config.json").string();
  if (!std::filesystem::exists(path)) return nullptr;
  const json document = read_json_object(path);
  const JsonValue root(document, path, "");
  const JsonValue model = root.at("model");
  ByteLevelBpeParts parts;
  parts.origin = path;
  parts.name = "tokenizer.json";
  const BpeFile file = read_model(model, path);
  parts.added = read_added_tokens(root.at("added_tokens"));
  parts.normalizer = read_hf_normalizer(root.at("normalizer").json(), path);
  parts.pre_tokenizer = read_hf_pre_tokenizer(root.at("pre_tokenizer").json(), path);
  require_byte_level_decoder(root.at("decoder"));
  parts.ignore_merges = model.at("ignore_merges").boolean_or(false);
  parts.fuse_unknown = model.at("fuse_unk").boolean_or(false);
  parts.vocabulary = build_bpe_vocabulary(file, parts.added);

  TokenNames names;
  names.leading = leading_token(root.at("post_processor"), 0);
  names.unknown = model.at("unk_token").string_or("");
  const json config = std::filesystem::exists(config_path) ? read_json_object(config_path) : json::object();
  const JsonValue settings(config, config_path, "");
  names.bos = token_text(settings.at("bos_token"));
  names.eos = token_text(settings.at("eos_token"));
  resolve_names(names, file, path, parts);
  return make_byte_level_bpe(std::move(parts));
}

}  // namespace restkv
