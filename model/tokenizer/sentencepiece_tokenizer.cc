#include "model/tokenizer/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <filesystem>
#include <unordered_map>

#include "dist/base/error.h"
#include "model/json_reader.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/hf_config.h"
#include "model/tokenizer/load.h"
#include "model/tokenizer/utf8.h"
#include "model/weights/mapped_file.h"

namespace restkv {
namespace {

constexpr const char* kSpace = "\u2581";  // what the library writes for a space
constexpr int64_t kMaxId = (int64_t{1} << 24) - 1;

// Unknown and control pieces are tokens that no text spells; the library finds user-defined ones itself.
std::vector<AddedToken> with_special_pieces(const SentencePieceModel& model, std::vector<AddedToken> added) {
  std::unordered_map<std::string_view, int32_t> known;
  for (const AddedToken& token : added) known.emplace(token.content, token.id);
  std::vector<AddedToken> out;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& [text, score, type] = model.pieces[id];
    if ((type != SentencePieceModel::kControl && type != SentencePieceModel::kUnknown) || known.count(text)) continue;
    AddedToken token;
    token.content = text;
    token.id = static_cast<int32_t>(id);
    token.special = true;
    out.push_back(std::move(token));
  }
  // The library cannot be asked for normalized text: all are looked for in the text as it is.
  for (AddedToken& token : added) token.normalized = false;
  out.insert(out.end(), std::make_move_iterator(added.begin()), std::make_move_iterator(added.end()));
  return out;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(SentencePieceParts parts)
      : parts_(std::move(parts)),
        added_(with_special_pieces(parts_.model, std::move(parts_.added))),
        splitter_(added_, {}) {
    const auto status = processor_.LoadFromSerializedProto(parts_.serialized);
    if (!status.ok())
      fail_input("{}: the sentencepiece library refuses the model: {}", parts_.origin, status.error_message());
    parts_.serialized = {};
    PieceDecoding decoding{kSpace, parts_.model.byte_fallback, 0};
    for (const auto& piece : parts_.model.pieces) {
      const bool byte = piece.type == SentencePieceModel::kByte;
      pieces_.push_back({byte ? decoding.text_of(piece.text) : replace_all(piece.text, kSpace, " "), false, byte});
    }
    parts_.model.pieces = {};
    for (const AddedToken& token : added_) place(token);
    for (const int32_t id : {parts_.bos, parts_.eos})
      if (id >= 0 && id < vocab_size()) pieces_[id].special = true;
    for (const bool bytes : {false, true})
      for (int32_t id = 0; id < vocab_size(); ++id)
        if (pieces_[id].byte == bytes && !pieces_[id].text.empty()) by_piece_.emplace(pieces_[id].text, id);
  }

  std::vector<int32_t> encode(std::string_view text, bool parse_special) const override {
    require_utf8(text, "text");
    std::vector<int32_t> ids;
    std::vector<int> part_ids;
    const auto on_text = [&](std::string_view part, bool) {
      const auto status = processor_.Encode(part, &part_ids);
      if (!status.ok()) fail_runtime("{}: sentencepiece: {}", parts_.origin, status.error_message());
      ids.insert(ids.end(), part_ids.begin(), part_ids.end());
    };
    splitter_.split(text, parse_special, on_text, [&ids](int32_t id) { ids.push_back(id); });
    return ids;
  }

  std::string piece(int32_t id, bool skip_special) const override {
    return id < 0 || id >= vocab_size() || (skip_special && pieces_[id].special) ? std::string() : pieces_[id].text;
  }
  bool is_byte(int32_t id) const override { return id >= 0 && id < vocab_size() && pieces_[id].byte; }
  int64_t leading_spaces() const override { return parts_.model.add_dummy_prefix; }
  int64_t vocab_size() const override { return static_cast<int64_t>(pieces_.size()); }
  bool is_special(int32_t id) const override { return id >= 0 && id < vocab_size() && pieces_[id].special; }
  int32_t id_of(std::string_view token) const override {
    const auto entry = by_piece_.find(std::string(token));
    return entry == by_piece_.end() ? -1 : entry->second;
  }
  int32_t bos() const override { return parts_.bos; }
  bool add_bos() const override { return parts_.add_bos; }
  int32_t eos() const override { return parts_.eos; }
  bool add_eos() const override { return parts_.add_eos; }
  std::string describe() const override {
    return fmt::format("SentencePiece {}{} ({}), {} tokens, {} of them special or added", parts_.model.type_name(),
                       parts_.model.byte_fallback ? " with byte fallback" : "", parts_.name, vocab_size(),
                       added_.size());
  }

 private:
  struct Piece {
    std::string text;
    bool special = false;
    bool byte = false;
  };

  void place(const AddedToken& token) {
    if (token.content.empty() || token.id < 0 || token.id > kMaxId)
      fail_input("{}: added token {} ('{}'): ids are allowed from 0 to {}, and no empty text", parts_.origin, token.id,
                 token.content, kMaxId);
    require_utf8(token.content, fmt::format("{}: added token {}", parts_.origin, token.id));
    if (static_cast<size_t>(token.id) >= pieces_.size()) pieces_.resize(token.id + 1);
    pieces_[token.id] = {token.content, token.special, false};
  }

  SentencePieceParts parts_;
  std::vector<AddedToken> added_;
  AddedTokenSplitter splitter_;
  sentencepiece::SentencePieceProcessor processor_;  // encoding changes nothing in it: threads may share it
  std::vector<Piece> pieces_;                        // by id
  std::unordered_map<std::string, int32_t> by_piece_;
};

// What older directories have for tokens beyond the model's own: text to id.
void read_added_tokens_json(const std::filesystem::path& path, std::vector<AddedToken>& added) {
  if (!std::filesystem::exists(path)) return;
  const nlohmann::json document = read_json_object(path.string());
  for (const auto& [text, id] : document.items()) {
    AddedToken token;
    token.content = text;
    const int64_t value = JsonValue(id, path.string(), text).integer();
    if (value < 0 || value > kMaxId) fail_input("{}: {}: allowed ids: 0 to {}", path.string(), text, kMaxId);
    token.id = static_cast<int32_t>(value);
    const auto same = [&](const AddedToken& other) { return other.content == token.content; };
    if (std::none_of(added.begin(), added.end(), same)) added.push_back(std::move(token));
  }
}

}  // namespace

std::shared_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceParts parts) {
  auto tokenizer = std::make_shared<SentencePieceTokenizer>(parts);
  for (const auto& [what, id] : {std::pair("bos", parts.bos), std::pair("eos", parts.eos)})
    if (id < -1 || id >= tokenizer->vocab_size())
      fail_input("{}: the {} token has id {}, but the vocabulary has {} tokens", parts.origin, what, id,
                 tokenizer->vocab_size());
  if ((parts.add_bos && parts.bos < 0) || (parts.add_eos && parts.eos < 0))
    fail_input("{}: asks for a bos or eos token around the text but names none", parts.origin);
  return tokenizer;
}

std::shared_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::string& directory) {
  const std::filesystem::path folder(directory);
  SentencePieceParts parts;
  parts.origin = (folder / "tokenizer.model").string();
  parts.name = "tokenizer.model";
  MappedFile file(parts.origin);
  parts.serialized.assign(reinterpret_cast<const char*>(file.data()), static_cast<size_t>(file.size()));
  parts.model = parse_sentencepiece_model(parts.serialized, parts.origin);
  std::unordered_map<std::string, int32_t> ids;
  for (size_t id = 0; id < parts.model.pieces.size(); ++id)
    ids.emplace(parts.model.pieces[id].text, static_cast<int32_t>(id));
  const auto find = [&ids](const std::string& text) {
    const auto entry = ids.find(text);
    return entry == ids.end() ? -1 : entry->second;
  };
  const HfTokenizerConfig config = read_hf_tokenizer_config(directory);
  merge_added_tokens(config, find, parts.added);
  read_added_tokens_json(folder / "added_tokens.json", parts.added);
  for (const AddedToken& token : parts.added) ids.emplace(token.content, token.id);
  const auto id_of = [&](const char* what, const std::string& text, int32_t own) {
    if (text.empty()) return own >= 0 && static_cast<size_t>(own) < parts.model.pieces.size() ? own : -1;
    const int32_t id = find(text);
    if (id < 0) fail_input("{}: the {} '{}' is not in the vocabulary", parts.origin, what, text);
    return id;
  };
  parts.bos = id_of("bos_token", config.bos, parts.model.bos_id);
  parts.eos = id_of("eos_token", config.eos, parts.model.eos_id);
  parts.add_bos = config.add_bos.value_or(parts.bos >= 0);
  parts.add_eos = config.add_eos.value_or(false);
  return make_sentencepiece_tokenizer(std::move(parts));
}

}  // namespace restkv
