#include "model/tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "model/tokenizer/utf8.h"

namespace restkv {

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

namespace {

// A letter, mark, decimal or letter number, connector, or joiner: what regular expressions call a word character.
bool is_word(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return c == 0x200C || c == 0x200D;
  }
}

// Start of the character that ends before byte `end` (end > 0, valid UTF-8).
size_t previous_character(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word(next_utf8(text, previous_character(text, begin)).character)) return false;
  return end == text.size() || !is_word(next_utf8(text, end).character);
}

size_t white_space_before(std::string_view text, size_t begin) {
  while (begin > 0) {
    const size_t at = previous_character(text, begin);
    if (!is_white_space(next_utf8(text, at).character)) break;
    begin = at;
  }
  return begin;
}

std::vector<AddedToken> select(const std::vector<AddedToken>& tokens, bool normalized, bool with_special) {
  std::vector<AddedToken> chosen;
  for (const AddedToken& token : tokens)
    if (token.normalized == normalized && (with_special || !token.special)) chosen.push_back(token);
  return chosen;
}

std::vector<AddedToken> normalize_contents(std::vector<AddedToken> tokens,
                                           const std::function<std::string(std::string_view)>& normalize) {
  for (AddedToken& token : tokens)
    if (token.normalized && normalize) token.content = normalize(token.content);
  std::erase_if(tokens, [](const AddedToken& token) { return token.content.empty(); });
  return tokens;
}

size_t white_space_after(std::string_view text, size_t end) {
  while (end < text.size()) {
    const Utf8Step step = next_utf8(text, end);
    if (!is_white_space(step.character)) break;
    end += step.length;
  }
  return end;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  edges_.resize(1);
  token_at_.assign(1, -1);
  for (size_t i = 0; i < tokens_.size(); ++i) {
    int32_t node = 0;
    for (const char byte : tokens_[i].content) {
      const auto [edge, fresh] = edges_[node].try_emplace(byte, static_cast<int32_t>(edges_.size()));
      node = edge->second;
      if (fresh) {
        edges_.emplace_back();
        token_at_.push_back(-1);
      }
    }
    token_at_[node] = static_cast<int32_t>(i);
    starts_[static_cast<uint8_t>(tokens_[i].content.front())] = true;
  }
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t at) const {
  const AddedToken* best = nullptr;
  int32_t node = 0;
  for (; at < text.size(); ++at) {
    const auto edge = edges_[node].find(text[at]);
    if (edge == edges_[node].end()) break;
    node = edge->second;
    if (token_at_[node] >= 0) best = &tokens_[token_at_[node]];
  }
  return best;
}

void AddedTokenMatcher::split(std::string_view text, const std::function<void(std::string_view)>& on_text,
                              const std::function<void(int32_t)>& on_token) const {
  size_t done = 0;  // all before this byte has been handed out
  for (size_t at = 0; at < text.size();) {
    const AddedToken* token = starts_[static_cast<uint8_t>(text[at])] ? longest_at(text, at) : nullptr;
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->content.size();
    at = end;
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) begin = white_space_before(text, begin);
    begin = std::max(begin, done);
    if (token->rstrip) end = white_space_after(text, end);
    if (begin > done) on_text(text.substr(done, begin - done));
    on_token(token->id);
    done = std::max(done, end);
  }
  if (done < text.size()) on_text(text.substr(done));
}

AddedTokenSplitter::AddedTokenSplitter(const std::vector<AddedToken>& tokens,
                                       std::function<std::string(std::string_view)> normalize)
    : normalize_(std::move(normalize)),
      raw_(select(tokens, false, true)),
      raw_plain_(select(tokens, false, false)),
      normalized_(normalize_contents(select(tokens, true, true), normalize_)),
      normalized_plain_(normalize_contents(select(tokens, true, false), normalize_)) {}

void AddedTokenSplitter::split(std::string_view text, bool parse_special,
                               const std::function<void(std::string_view, bool)>& on_text,
                               const std::function<void(int32_t)>& on_token) const {
  const AddedTokenMatcher& raw = parse_special ? raw_ : raw_plain_;
  const AddedTokenMatcher& normalized = parse_special ? normalized_ : normalized_plain_;
  const auto on_raw = [&](std::string_view part) {
    const bool first = part.data() == text.data();
    const std::string own = normalize_ ? normalize_(part) : std::string();
    const std::string_view clean = normalize_ ? own : part;
    normalized.split(
        clean, [&](std::string_view piece) { on_text(piece, first && piece.data() == clean.data()); }, on_token);
  };
  raw.split(text, on_raw, on_token);
}

}  // namespace restkv
