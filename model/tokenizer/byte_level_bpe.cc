#include "model/tokenizer/byte_level_bpe.h"

#include <algorithm>

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

// The words of one encode call, with the ids found for them. It lives in the call, so that encode stays const and
// callers may share a tokenizer between threads.
class WordEncoder {
 public:
  WordEncoder(const ByteLevelBpeParts& parts, std::vector<int32_t>& out) : parts_(parts), out_(out) {}

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
    parts_.vocabulary.merges.merge(symbols_, scratch_);
  }

  const ByteLevelBpeParts& parts_;
  std::vector<int32_t>& out_;
  std::vector<int32_t> symbols_;
  BpeMerges::Scratch scratch_;
  std::unordered_map<std::string, std::vector<int32_t>, TextHash, std::equal_to<>> cache_;
};

std::vector<AddedToken> select(const std::vector<AddedToken>& added, bool normalized, bool with_special) {
  std::vector<AddedToken> chosen;
  for (const AddedToken& token : added)
    if (token.normalized == normalized && (with_special || !token.special)) chosen.push_back(token);
  return chosen;
}

class ByteLevelBpe final : public Tokenizer {
 public:
  explicit ByteLevelBpe(ByteLevelBpeParts parts)
      : parts_(std::move(parts)),
        raw_(select(parts_.added, false, true)),
        raw_plain_(select(parts_.added, false, false)),
        normalized_(select(parts_.added, true, true)),
        normalized_plain_(select(parts_.added, true, false)) {
    special_.assign(parts_.vocabulary.bytes.size(), 0);
    for (const AddedToken& token : parts_.added) {
      if (token.special) special_[token.id] = 1;
      by_content_.emplace(token.content, token.id);
    }
    for (const int32_t id : {parts_.bos, parts_.eos})
      if (id >= 0) special_[id] = 1;
  }

  std::vector<int32_t> encode(std::string_view text, bool parse_special) const override {
    require_utf8(text, "text");
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3);
    WordEncoder words(parts_, ids);
    RegexScratch scratch;
    const AddedTokenMatcher& raw = parse_special ? raw_ : raw_plain_;
    const AddedTokenMatcher& normalized = parse_special ? normalized_ : normalized_plain_;
    const auto on_token = [&ids](int32_t id) { ids.push_back(id); };
    const PreTokenizer::Sink on_word = [&words](std::string_view word) { words.append(word); };
    const auto on_clean = [&](std::string_view part) { parts_.pre_tokenizer.split(part, scratch, on_word); };
    const auto on_raw = [&](std::string_view part) {
      if (parts_.normalizer == Normalizer::kNone) return normalized.split(part, on_clean, on_token);
      const std::string clean = normalize(parts_.normalizer, part);
      normalized.split(clean, on_clean, on_token);
    };
    raw.split(text, on_raw, on_token);
    return ids;
  }

  std::string piece(int32_t id, bool skip_special) const override {
    if (id < 0 || id >= vocab_size() || (skip_special && special_[id])) return {};
    return parts_.vocabulary.bytes[id];
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(parts_.vocabulary.bytes.size()); }
  bool is_special(int32_t id) const override { return id >= 0 && id < vocab_size() && special_[id]; }

  int32_t id_of(std::string_view token) const override {
    const std::string key(token);
    if (const auto added = by_content_.find(key); added != by_content_.end()) return added->second;
    const auto entry = parts_.vocabulary.by_bytes.find(key);
    return entry == parts_.vocabulary.by_bytes.end() ? -1 : entry->second;
  }

  int32_t bos() const override { return parts_.bos; }
  bool add_bos() const override { return parts_.add_bos; }
  int32_t eos() const override { return parts_.eos; }

  std::string describe() const override {
    const auto& byte_ids = parts_.vocabulary.byte_ids;
    const auto missing = std::count(byte_ids.begin(), byte_ids.end(), -1);
    std::string text = fmt::format("byte-level BPE ({}), {} tokens, {} merges, {} added tokens", parts_.name,
                                   vocab_size(), parts_.vocabulary.merges.size(), parts_.added.size());
    if (missing > 0)
      text += fmt::format(", {} byte values without a token ({})", missing,
                          parts_.unknown < 0 ? "dropped" : "encoded as the unknown token");
    return text;
  }

 private:
  ByteLevelBpeParts parts_;
  AddedTokenMatcher raw_, raw_plain_, normalized_, normalized_plain_;
  std::vector<char> special_;
  std::unordered_map<std::string, int32_t> by_content_;
};

}  // namespace

std::shared_ptr<Tokenizer> make_byte_level_bpe(ByteLevelBpeParts parts) {
  for (AddedToken& token : parts.added)
    if (token.normalized) token.content = normalize(parts.normalizer, token.content);
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
  return std::make_shared<ByteLevelBpe>(std::move(parts));
}

}  // namespace restkv
