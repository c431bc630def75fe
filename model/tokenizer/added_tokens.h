// Tokens that are looked for in the text itself, before anything else cuts it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace restkv {

/// The meaning of the flags is that of "added_tokens" in Hugging Face tokenizer.json.
struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false;
  bool single_word = false;  ///< only between characters that are not part of a word
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
  bool normalized = false;   ///< looked for after normalization
};

/// Finds added tokens in text: leftmost first, the longest of those that begin at the same place.
class AddedTokenMatcher {
 public:
  /// Contents must be non-empty.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  /// Calls `on_text` for the parts between and `on_token` for the tokens, in order. `text` is valid UTF-8.
  void split(std::string_view text, const std::function<void(std::string_view)>& on_text,
             const std::function<void(int32_t)>& on_token) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::vector<std::unordered_map<char, int32_t>> edges_;  // a byte trie; node 0 is the root
  std::vector<int32_t> token_at_;                         // per node: index of the token that ends here, or -1
  bool starts_[256] = {};                                 // bytes with which some token begins
};

/// What a tokenizer does with text before its model sees it: cuts out the tokens that are looked for in the text as it
/// is, normalizes what lies between, and cuts out those that are looked for in normalized text.
class AddedTokenSplitter {
 public:
  /// `normalize` is applied to text, and to the contents of normalized tokens; empty: text stays as it is.
  AddedTokenSplitter(const std::vector<AddedToken>& tokens, std::function<std::string(std::string_view)> normalize);

  /// `on_text`: normalized text, and whether it stands at the very beginning. Special tokens are found only with
  /// `parse_special`.
  void split(std::string_view text, bool parse_special, const std::function<void(std::string_view, bool)>& on_text,
             const std::function<void(int32_t)>& on_token) const;

 private:
  std::function<std::string(std::string_view)> normalize_;
  AddedTokenMatcher raw_, raw_plain_, normalized_, normalized_plain_;
};

/// Unicode's White_Space property.
bool is_white_space(char32_t character);

}  // namespace restkv
