// Cuts text into the words on which BPE works.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/regex.h"

namespace restkv {

/// What becomes of the parts of the text that a pattern matches.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

/// The steps of a byte-level model's pre-tokenizer, in the terms of Hugging Face tokenizer.json. Every step cuts each
/// piece that the step before it left.
class PreTokenizer {
 public:
  /// `invert`: the parts that do not match are taken for those that do.
  void add_split(Regex regex, SplitBehavior behavior, bool invert);
  /// Puts a space before every piece that does not begin with one.
  void add_prefix_space();

  using Sink = std::function<void(std::string_view)>;
  /// Calls `sink` with every word of valid UTF-8 text in order. The view lives only during the call.
  void split(std::string_view text, RegexScratch& scratch, const Sink& sink) const;

  std::string describe() const;

 private:
  struct Step {
    std::vector<Regex> regex;  // one, or none for the prefix space
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
  };
  void run(size_t step, std::string_view text, RegexScratch& scratch, const Sink& sink) const;
  void run_isolated(size_t step, std::string_view text, RegexScratch& scratch, const Sink& sink) const;

  std::vector<Step> steps_;
};

/// GPT-2's own pattern, which the ByteLevel pre-tokenizer applies with use_regex.
extern const char* const kGpt2Pattern;

}  // namespace restkv
