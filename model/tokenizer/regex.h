// Unicode regular expressions of the dialect that tokenizer files use (Oniguruma's), run by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace restkv {

/// What one thread needs to run any Regex. Reused over many calls; not shared between threads.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

class Regex {
 public:
  /// `where` names the file and key, for messages. White space (\s) is Unicode's White_Space property and \d is
  /// general category Nd, as in Oniguruma; escapes on whose meaning the two engines differ are refused.
  /// Throws InputError for a pattern that does not compile or is not supported.
  Regex(const std::string& pattern, const std::string& where);

  struct Match {
    size_t begin = 0, end = 0;  ///< bytes
  };

  /// The first non-empty match at or after byte `from` of valid UTF-8 text. False when there is none.
  bool find(std::string_view text, size_t from, RegexScratch& scratch, Match& match) const;

  const std::string& pattern() const { return pattern_; }

 private:
  struct Code;
  std::string pattern_;
  std::shared_ptr<const Code> code_;  // immutable after construction, so that copies may share it
};

/// `text` with every character that means something to Regex escaped.
std::string regex_escape(std::string_view text);

}  // namespace restkv
