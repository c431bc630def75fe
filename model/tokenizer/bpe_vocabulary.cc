#include "dist/base/error.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/byte_alphabet.h"
#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

constexpr int64_t kMaxId = (int64_t{1} << 24) - 1;  // bounds the table that a hostile id could ask for

using IdByText = std::unordered_map<std::string_view, int32_t>;

IdByText index_tokens(const BpeFile& file) {
  IdByText ids;
  ids.reserve(file.tokens.size());
  for (const auto& [text, id] : file.tokens) {
    if (id < 0 || id > kMaxId)
      fail_input("{}: {}: token '{}' has id {}; allowed: 0 to {}", file.origin, file.tokens_key, text, id, kMaxId);
    const auto [entry, fresh] = ids.try_emplace(text, static_cast<int32_t>(id));
    if (!fresh)
      fail_input("{}: {}: token '{}' stands twice, with ids {} and {}; tokens must be unique", file.origin,
                 file.tokens_key, text, entry->second, id);
  }
  return ids;
}

// Returns which ids are taken.
std::vector<char> fill_tokens(const BpeFile& file, BpeVocabulary& vocabulary) {
  std::vector<char> used;
  for (const auto& [text, id] : file.tokens) {
    if (static_cast<size_t>(id) >= used.size()) {
      used.resize(id + 1, 0);
      vocabulary.bytes.resize(id + 1);
    }
    if (used[id])
      fail_input("{}: {}: id {} belongs to two tokens, one of them '{}'; ids must be unique", file.origin,
                 file.tokens_key, id, text);
    used[id] = 1;
    require_utf8(text, fmt::format("{}: {}: token {}", file.origin, file.tokens_key, id));
    if (file.alphabet == BpeAlphabet::kCharacters) {
      if (!text.empty()) vocabulary.by_bytes.emplace(text, static_cast<int32_t>(id));
      vocabulary.bytes[id] = text;
    } else if (auto bytes = bytes_from_alphabet(text)) {
      if (!bytes->empty()) vocabulary.by_bytes.emplace(*bytes, static_cast<int32_t>(id));
      if (bytes->size() == 1) vocabulary.byte_ids[static_cast<uint8_t>(bytes->front())] = static_cast<int32_t>(id);
      vocabulary.bytes[id] = std::move(*bytes);
    } else {
      vocabulary.bytes[id] = text;  // outside the alphabet: no merge leads here, the text stands for itself
    }
  }
  return used;
}

void place_added_tokens(const BpeFile& file, const std::vector<AddedToken>& added, const IdByText& ids,
                        std::vector<char> used, BpeVocabulary& vocabulary) {
  for (const AddedToken& token : added) {
    const std::string what = fmt::format("{}: added token {}", file.origin, token.id);
    if (token.content.empty()) fail_input("{} is empty", what);
    require_utf8(token.content, what);
    if (token.id < 0 || token.id > kMaxId) fail_input("{} ('{}'): allowed ids: 0 to {}", what, token.content, kMaxId);
    if (static_cast<size_t>(token.id) >= used.size()) {
      used.resize(token.id + 1, 0);
      vocabulary.bytes.resize(token.id + 1);
    }
    const auto entry = ids.find(token.content);
    if (entry != ids.end() && entry->second != token.id)
      fail_input("{} is '{}', which has id {} in {}", what, token.content, entry->second, file.tokens_key);
    if (used[token.id] && entry == ids.end())
      fail_input("{} is '{}', but this id belongs to '{}'", what, token.content, vocabulary.bytes[token.id]);
    used[token.id] = 1;
    vocabulary.bytes[token.id] = token.content;
    if (!token.special) continue;
    // Text must not reach a special token by spelling it, only through the matcher.
    if (file.alphabet == BpeAlphabet::kCharacters) {
      vocabulary.by_bytes.erase(token.content);
    } else if (const auto bytes = bytes_from_alphabet(token.content)) {
      vocabulary.by_bytes.erase(*bytes);
    }
  }
}

void fill_fallback_bytes(const IdByText& ids, BpeVocabulary& vocabulary) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto entry = ids.find(fmt::format("<0x{:02X}>", byte));
    if (entry != ids.end()) vocabulary.byte_ids[byte] = entry->second;
  }
}

void fill_merges(const BpeFile& file, const IdByText& ids, BpeVocabulary& vocabulary) {
  const auto id_of = [&](size_t rank, const std::string& token) {
    const auto entry = ids.find(token);
    if (entry == ids.end())
      fail_input("{}: {}: rule {} ('{}' '{}') needs the token '{}', which is not in {}", file.origin, file.merges_key,
                 rank, file.merges[rank].first, file.merges[rank].second, token, file.tokens_key);
    return entry->second;
  };
  vocabulary.merges.reserve(file.merges.size());
  for (size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto& [left, right] = file.merges[rank];
    const int32_t left_id = id_of(rank, left);
    const int32_t right_id = id_of(rank, right);
    vocabulary.merges.add(left_id, right_id, static_cast<int32_t>(rank), id_of(rank, left + right));
  }
}

}  // namespace

BpeVocabulary build_bpe_vocabulary(const BpeFile& file, const std::vector<AddedToken>& added) {
  if (file.tokens.empty()) fail_input("{}: {} is missing or empty", file.origin, file.tokens_key);
  if (file.merges.empty())
    fail_input("{}: {} is missing or empty; a BPE tokenizer needs its merges", file.origin, file.merges_key);
  BpeVocabulary vocabulary;
  vocabulary.byte_ids.fill(-1);
  vocabulary.by_bytes.reserve(file.tokens.size());
  const IdByText ids = index_tokens(file);
  std::vector<char> used = fill_tokens(file, vocabulary);
  if (file.alphabet == BpeAlphabet::kCharacters) fill_fallback_bytes(ids, vocabulary);
  fill_merges(file, ids, vocabulary);
  place_added_tokens(file, added, ids, std::move(used), vocabulary);
  return vocabulary;
}

}  // namespace restkv
