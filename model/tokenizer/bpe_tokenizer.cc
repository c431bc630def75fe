#include "model/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <charconv>
#include <functional>

#include "dist/base/error.h"
#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

constexpr size_t kCachedWord = 48;         // longer words hardly come twice
constexpr size_t kCacheEntries = 1 << 18;  // bounds the memory of one encode call

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

// Looks up the smallest symbols of a model over characters.
using CharacterIds = std::unordered_map<char32_t, int32_t>;

// The words of one encode call, with the ids found for them. It lives in the call, so that encode stays const and
// callers may share a tokenizer between threads.
class WordEncoder {
 public:
  WordEncoder(const BpeParts& parts, const CharacterIds& characters, std::vector<int32_t>& out)
      : parts_(parts), characters_(characters), out_(out) {}

  void append(std::string_view word) {
    const auto known = cache_.find(word);
    if (known != cache_.end()) {
      out_.insert(out_.end(), known->second.begin(), known->second.end());
      return;
    }
    encode(word);
    out_.insert(out_.end(), symbols_.begin(), symbols_.end());
    if (word.size() <= kCachedWord && cache_.size() < kCacheEntries) cache_.emplace(word, symbols_);
  }

 private:
  void encode(std::string_view word) {
    symbols_.clear();
    if (parts_.ignore_merges) {
      const auto whole = parts_.vocabulary.by_bytes.find(std::string(word));
      if (whole != parts_.vocabulary.by_bytes.end()) {
        symbols_.push_back(whole->second);
        return;
      }
    }
    parts_.alphabet == BpeAlphabet::kBytes ? push_bytes(word) : push_characters(word);
    parts_.vocabulary.merges.merge(symbols_, scratch_);
  }

  void push_bytes(std::string_view word) {
    bool after_unknown = false;
    for (const char byte : word) {
      const int32_t id = parts_.vocabulary.byte_ids[static_cast<uint8_t>(byte)];
      const bool unknown = id < 0;
      if (!unknown) {
        symbols_.push_back(id);
      } else if (parts_.unknown >= 0 && !(parts_.fuse_unknown && after_unknown)) {
        symbols_.push_back(parts_.unknown);
      }
      after_unknown = unknown;
    }
  }

  // As in the reference, bytes do not end a run of unknown characters: the unknown token comes after them.
  void push_characters(std::string_view word) {
    bool unknown = false;
    const auto push_unknown = [&] {
      if (unknown) symbols_.push_back(parts_.unknown);
      unknown = false;
    };
    for (size_t at = 0; at < word.size();) {
      const Utf8Step step = next_utf8(word, at);
      const auto entry = characters_.find(step.character);
      if (entry != characters_.end()) {
        push_unknown();
        symbols_.push_back(entry->second);
      } else if (!push_fallback(word.substr(at, step.length)) && parts_.unknown >= 0) {
        if (!parts_.fuse_unknown) push_unknown();
        unknown = true;
      }
      at += step.length;
    }
    push_unknown();
  }

  bool push_fallback(std::string_view character) {
    if (!parts_.byte_fallback) return false;
    const size_t size = symbols_.size();
    for (const char byte : character) {
      const int32_t id = parts_.vocabulary.byte_ids[static_cast<uint8_t>(byte)];
      if (id < 0) {
        symbols_.resize(size);
        return false;
      }
      symbols_.push_back(id);
    }
    return true;
  }

  const BpeParts& parts_;
  const CharacterIds& characters_;
  std::vector<int32_t>& out_;
  std::vector<int32_t> symbols_;
  BpeMerges::Scratch scratch_;
  std::unordered_map<std::string, std::vector<int32_t>, TextHash, std::equal_to<>> cache_;
};

std::function<std::string(std::string_view)> normalize_function(const Normalizer& normalizer) {
  if (normalizer.empty()) return {};
  return [normalizer](std::string_view text) { return normalizer.run(text); };
}

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeParts parts)
      : parts_(std::move(parts)), splitter_(parts_.added, normalize_function(parts_.normalizer)) {
    special_.resize(parts_.vocabulary.bytes.size());
    for (const AddedToken& token : parts_.added)
      if (token.special) special_[token.id] = 1;
    for (const int32_t id : {parts_.bos, parts_.eos})
      if (id >= 0) special_[id] = 1;
    if (parts_.alphabet == BpeAlphabet::kCharacters) index_characters();
    index_pieces();
  }

  std::vector<int32_t> encode(std::string_view text, bool parse_special) const override {
    require_utf8(text, "text");
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3);
    WordEncoder words(parts_, characters_, ids);
    RegexScratch scratch;
    const PreTokenizer::Sink on_word = [&words](std::string_view word) { words.append(word); };
    splitter_.split(
        text, parse_special,
        [&](std::string_view part, bool first) { parts_.pre_tokenizer.split(part, first, scratch, on_word); },
        [&ids](int32_t id) { ids.push_back(id); });
    return ids;
  }

  std::string piece(int32_t id, bool skip_special) const override {
    if (id < 0 || id >= vocab_size() || (skip_special && special_[id])) return {};
    const std::string& text = parts_.vocabulary.bytes[id];
    return parts_.alphabet == BpeAlphabet::kBytes ? text : parts_.decoding.text_of(text);
  }

  bool is_byte(int32_t id) const override {
    return parts_.alphabet == BpeAlphabet::kCharacters && id >= 0 && id < vocab_size() &&
           parts_.decoding.byte_of(parts_.vocabulary.bytes[id]) >= 0;
  }

  int64_t leading_spaces() const override { return parts_.decoding.leading_spaces; }
  int64_t vocab_size() const override { return static_cast<int64_t>(parts_.vocabulary.bytes.size()); }
  bool is_special(int32_t id) const override { return id >= 0 && id < vocab_size() && special_[id]; }

  int32_t id_of(std::string_view token) const override {
    const auto entry = by_piece_.find(std::string(token));
    return entry == by_piece_.end() ? -1 : entry->second;
  }

  int32_t bos() const override { return parts_.bos; }
  bool add_bos() const override { return parts_.add_bos; }
  int32_t eos() const override { return parts_.eos; }
  bool add_eos() const override { return parts_.add_eos; }

  std::string describe() const override {
    const bool bytes = parts_.alphabet == BpeAlphabet::kBytes;
    const char* kind = bytes ? "byte-level BPE" : parts_.byte_fallback ? "BPE with byte fallback" : "BPE";
    std::string text = fmt::format("{} ({}), {} tokens, {} merges, {} added tokens", kind, parts_.name, vocab_size(),
                                   parts_.vocabulary.merges.size(), parts_.added.size());
    const auto& byte_ids = parts_.vocabulary.byte_ids;
    const auto missing = std::count(byte_ids.begin(), byte_ids.end(), -1);
    if (missing > 0 && (bytes || parts_.byte_fallback))
      text += fmt::format(", {} byte values without a token ({})", missing,
                          parts_.unknown < 0 ? "dropped" : "encoded as the unknown token");
    return text;
  }

 private:
  void index_characters() {
    for (const auto& [text, id] : parts_.vocabulary.by_bytes)
      if (const Utf8Step step = next_utf8(text, 0); step.length == text.size()) characters_.emplace(step.character, id);
  }

  // Added tokens first, then pieces of text, then bytes: "A" is rather the token "A" than "<0x41>".
  void index_pieces() {
    for (const AddedToken& token : parts_.added) by_piece_.emplace(token.content, token.id);
    if (parts_.alphabet == BpeAlphabet::kBytes) {
      by_piece_.insert(parts_.vocabulary.by_bytes.begin(), parts_.vocabulary.by_bytes.end());
      return;
    }
    for (const bool bytes : {false, true})
      for (int32_t id = 0; id < vocab_size(); ++id)
        if (is_byte(id) == bytes && !parts_.vocabulary.bytes[id].empty()) by_piece_.emplace(piece(id, false), id);
  }

  BpeParts parts_;
  AddedTokenSplitter splitter_;
  CharacterIds characters_;
  std::vector<char> special_;
  std::unordered_map<std::string, int32_t> by_piece_;
};

}  // namespace

int PieceDecoding::byte_of(std::string_view piece) const {
  if (!byte_fallback || piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  const auto [at, error] = std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  return error == std::errc() && at == piece.data() + 5 ? value : -1;
}

std::string PieceDecoding::text_of(std::string_view piece) const {
  if (const int byte = byte_of(piece); byte >= 0) return std::string(1, static_cast<char>(byte));
  return space.empty() ? std::string(piece) : replace_all(piece, space, " ");
}

std::shared_ptr<Tokenizer> make_bpe_tokenizer(BpeParts parts) {
  const auto count = static_cast<int64_t>(parts.vocabulary.bytes.size());
  const auto require_id = [&](const char* what, int32_t id) {
    if (id < -1 || id >= count)
      fail_input("{}: the {} token has id {}, but the vocabulary has {} tokens", parts.origin, what, id, count);
  };
  require_id("bos", parts.bos);
  require_id("eos", parts.eos);
  require_id("unknown", parts.unknown);
  if (parts.add_bos && parts.bos < 0)
    fail_input("{}: asks for a bos token before the text but names none", parts.origin);
  if (parts.add_eos && parts.eos < 0)
    fail_input("{}: asks for an eos token after the text but names none", parts.origin);
  return std::make_shared<BpeTokenizer>(std::move(parts));
}

}  // namespace restkv
