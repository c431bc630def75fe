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

/// Where a Metaspace step puts a space before the text: nowhere, at the very beginning, before every piece.
enum class PrependScheme { kNever, kFirst, kAlways };

/// The steps of a pre-tokenizer, in the terms of Hugging Face tokenizer.json. Every step cuts each
/// piece that the step before it left.
class PreTokenizer {
 public:
  /// `invert`: the parts that do not match are taken for those that do.
  void add_split(Regex regex, SplitBehavior behavior, bool invert);
  /// Puts a space before every piece that does not begin with one.
  void add_prefix_space();
  /// Writes `replacement` (one character) for every space, puts one before pieces that do not begin with it, as
  /// `scheme` says, and, with `split`, cuts before every one.
  void add_metaspace(std::string replacement, PrependScheme scheme, bool split);

  using Sink = std::function<void(std::string_view)>;
  /// Calls `sink` with every word of valid UTF-8 text in order. The view lives only during the call. `first`: the text
  /// stands at the very beginning of what is encoded.
  void split(std::string_view text, bool first, RegexScratch& scratch, const Sink& sink) const;

  std::string describe() const;

 private:
  enum class Kind { kSplit, kPrefixSpace, kMetaspace };
  struct Step {
    Kind kind = Kind::kSplit;
    std::vector<Regex> regex;  // one where pieces are cut
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
    std::string replacement;  // of a metaspace step
    PrependScheme scheme = PrependScheme::kNever;
  };
  // One text on its way through the steps.
  struct Run {
    RegexScratch& scratch;
    const Sink& sink;
  };
  void run(size_t step, std::string_view text, bool first, const Run& run) const;
  void run_split(size_t step, std::string_view text, bool first, const Run& run) const;
  void run_isolated(size_t step, std::string_view text, bool first, const Run& run) const;
  void run_metaspace(size_t step, std::string_view text, bool first, const Run& run) const;

  std::vector<Step> steps_;
};

/// GPT-2's own pattern, which the ByteLevel pre-tokenizer applies with use_regex.
extern const char* const kGpt2Pattern;

}  // namespace restkv
