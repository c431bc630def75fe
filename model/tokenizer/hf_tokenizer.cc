#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "dist/base/error.h"
#include "model/json_reader.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/hf_config.h"
#include "model/tokenizer/hf_pre_tokenizer.h"
#include "model/tokenizer/hf_processors.h"
#include "model/tokenizer/load.h"
#include "model/tokenizer/sentencepiece_tokenizer.h"

namespace restkv {
namespace {

using nlohmann::json;

// Settings of model that change the result and that the known models leave off.
void refuse_other_settings(const JsonValue& model, BpeAlphabet alphabet) {
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.at(name).string_or("").empty())
      model.at(name).fail(fmt::format("found '{}'; supported: null or empty", model.at(name).string()));
  if (alphabet == BpeAlphabet::kBytes && model.at("byte_fallback").boolean_or(false))
    model.at("byte_fallback")
        .fail("found true; supported: false (the pre_tokenizer is ByteLevel: all is bytes already)");
  const JsonValue dropout = model.at("dropout");
  if (!dropout.is_null() && dropout.json() != 0) dropout.fail("supported: null (dropout is for training)");
}

BpeFile read_model(const JsonValue& model, const std::string& path, BpeAlphabet alphabet) {
  const std::string type = model.at("type").string_or("BPE");  // early files do not name it
  if (type != "BPE")
    model.at("type").fail(
        fmt::format("found '{}'; supported: BPE, over bytes (pre_tokenizer ByteLevel) or over characters", type));
  refuse_other_settings(model, alphabet);
  BpeFile file;
  file.alphabet = alphabet;
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
  std::unordered_map<std::string, int32_t> ids;
  for (size_t i = 0; i < list.array().size(); ++i) {
    const JsonValue entry = list.at(i);
    AddedToken token = read_added_token(entry);
    const int64_t id = entry.at("id").integer();
    if (id < 0 || id > INT32_MAX) entry.at("id").fail(fmt::format("found {}; ids begin at 0", id));
    token.id = static_cast<int32_t>(id);
    const auto [other, fresh] = ids.emplace(token.content, token.id);
    if (!fresh) entry.fail(fmt::format("'{}' is added twice, with ids {} and {}", token.content, other->second, id));
    added.push_back(std::move(token));
  }
  return added;
}

// Finds tokens by the text that the file gives them.
class Names {
 public:
  Names(const BpeFile& file, const std::vector<AddedToken>& added) {
    for (const auto& [token, id] : file.tokens) ids_.emplace(token, static_cast<int32_t>(id));
    for (const AddedToken& token : added) ids_.insert_or_assign(token.content, token.id);
  }
  int32_t find(const std::string& text) const {
    const auto entry = ids_.find(text);
    return entry == ids_.end() ? -1 : entry->second;
  }
  int32_t require(const std::string& path, const char* what, const std::string& text) const {
    if (text.empty()) return -1;
    const int32_t id = find(text);
    if (id < 0) fail_input("{}: the {} '{}' is not in the vocabulary", path, what, text);
    return id;
  }

 private:
  std::unordered_map<std::string, int32_t> ids_;
};

// One side of the text: what tokenizer_config.json says, else what the post-processor puts there.
bool puts_token(const std::string& path, const char* what, const std::optional<bool>& flag,
                const std::string& processor, std::string& named) {
  if (flag.has_value()) return *flag;
  if (!processor.empty() && !named.empty() && processor != named)
    fail_input("{}: post_processor puts '{}' around the text, but {} is '{}'", path, processor, what, named);
  if (named.empty()) named = processor;
  return !processor.empty();
}

std::shared_ptr<Tokenizer> load_tokenizer_json(const std::string& path, const std::string& directory) {
  const json document = read_json_object(path);
  const JsonValue root(document, path, "");
  const JsonValue model = root.at("model");
  BpeParts parts;
  parts.origin = path;
  parts.name = "tokenizer.json";
  HfPreTokenizer pre_tokenizer = read_hf_pre_tokenizer(root.at("pre_tokenizer").json(), path);
  parts.alphabet = pre_tokenizer.byte_level ? BpeAlphabet::kBytes : BpeAlphabet::kCharacters;
  parts.pre_tokenizer = std::move(pre_tokenizer.steps);
  const BpeFile file = read_model(model, path, parts.alphabet);
  parts.added = read_added_tokens(root.at("added_tokens"));
  parts.normalizer = read_hf_normalizer(root.at("normalizer").json(), path);
  if (parts.alphabet == BpeAlphabet::kBytes)
    require_byte_level_decoder(root.at("decoder"));
  else
    parts.decoding = read_hf_piece_decoder(root.at("decoder"));
  parts.byte_fallback = model.at("byte_fallback").boolean_or(false);
  parts.ignore_merges = model.at("ignore_merges").boolean_or(false);
  parts.fuse_unknown = model.at("fuse_unk").boolean_or(false);

  HfTokenizerConfig config = read_hf_tokenizer_config(directory);
  const Names names(file, parts.added);
  merge_added_tokens(
      config, [&names](const std::string& text) { return names.find(text); }, parts.added);
  parts.vocabulary = build_bpe_vocabulary(file, parts.added);
  const HfTemplate around = read_hf_post_processor(root.at("post_processor"));
  parts.add_bos = puts_token(path, "bos_token", config.add_bos, around.leading, config.bos);
  parts.add_eos = puts_token(path, "eos_token", config.add_eos, around.trailing, config.eos);
  const Names all(file, parts.added);
  parts.bos = all.require(path, "bos_token", config.bos);
  parts.eos = all.require(path, "eos_token", config.eos);
  parts.unknown = all.require(path, "unk_token", model.at("unk_token").string_or(""));
  return make_bpe_tokenizer(std::move(parts));
}

}  // namespace

std::shared_ptr<Tokenizer> load_hf_tokenizer(const std::string& directory) {
  namespace fs = std::filesystem;
  const fs::path folder(directory);
  // Both describe the same tokenizer, but only tokenizer.json says what is done around the model: it is what
  // transformers' fast tokenizers read, so that it wins.
  if (fs::exists(folder / "tokenizer.json"))
    return load_tokenizer_json((folder / "tokenizer.json").string(), directory);
  if (fs::exists(folder / "tokenizer.model")) return load_sentencepiece_tokenizer(directory);
  for (const char* other : {"vocab.json", "vocab.txt", "tekken.json", "spiece.model", "tokenizer.model.v3"})
    if (fs::exists(folder / other))
      fail_input("{}: {} is not supported alone; supported: tokenizer.json, tokenizer.model (SentencePiece)", directory,
                 other);
  return nullptr;
}

}  // namespace restkv
