// Rewrites text before it is cut into words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace restkv {

/// Unicode normalization form C (UAX #15) of valid UTF-8.
std::string to_nfc(std::string_view text);

/// The steps of a normalizer, in the terms of Hugging Face tokenizer.json. Each works on what the one before it left.
class Normalizer {
 public:
  void add_nfc();
  /// Puts `text` before text that is not empty.
  void add_prepend(std::string text);
  /// Replaces every occurrence of `from`, which is not empty.
  void add_replace(std::string from, std::string to);

  bool empty() const { return steps_.empty(); }
  /// `text` must be valid UTF-8; so is the result.
  std::string run(std::string_view text) const;

 private:
  enum class Kind { kNfc, kPrepend, kReplace };
  struct Step {
    Kind kind;
    std::string from, to;
  };
  std::vector<Step> steps_;
};

/// `text` with every occurrence of `from` (not empty) replaced.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace restkv
