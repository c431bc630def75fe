#include "model/tokenizer/pre_tokenizer.h"

#include <algorithm>

namespace restkv {

const char* const kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

struct Part {
  size_t begin, end;
  bool matched;
};

std::vector<Part> find_parts(const Regex& regex, bool invert, std::string_view text, RegexScratch& scratch) {
  std::vector<Part> parts;
  Regex::Match match;
  size_t at = 0;
  while (at < text.size() && regex.find(text, at, scratch, match)) {
    if (match.begin > at) parts.push_back({at, match.begin, invert});
    parts.push_back({match.begin, match.end, !invert});
    at = match.end;
  }
  if (at < text.size()) parts.push_back({at, text.size(), invert});
  return parts;
}

// Joins neighbours in place. In a run of matches only the one that touches other text is merged with it.
std::vector<Part> merge_parts(std::vector<Part> parts, SplitBehavior behavior) {
  if (behavior == SplitBehavior::kRemoved) {
    std::erase_if(parts, [](const Part& part) { return part.matched; });
    return parts;
  }
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) std::reverse(parts.begin(), parts.end());
  std::vector<Part> out;
  bool previous = false;
  for (const Part& part : parts) {
    const bool join = behavior == SplitBehavior::kContiguous ? part.matched == previous : part.matched && !previous;
    if (join && !out.empty()) {
      out.back().begin = std::min(out.back().begin, part.begin);
      out.back().end = std::max(out.back().end, part.end);
    } else {
      out.push_back(part);
    }
    previous = part.matched;
  }
  if (backwards) std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace

void PreTokenizer::add_split(Regex regex, SplitBehavior behavior, bool invert) {
  steps_.push_back({{std::move(regex)}, behavior, invert});
}

void PreTokenizer::add_prefix_space() { steps_.emplace_back(); }

void PreTokenizer::split(std::string_view text, RegexScratch& scratch, const Sink& sink) const {
  run(0, text, scratch, sink);
}

void PreTokenizer::run(size_t index, std::string_view text, RegexScratch& scratch, const Sink& sink) const {
  if (text.empty()) return;
  if (index == steps_.size()) return sink(text);
  const Step& step = steps_[index];
  if (step.regex.empty()) {
    if (text.front() == ' ') return run(index + 1, text, scratch, sink);
    std::string prefixed(1, ' ');
    prefixed += text;
    return run(index + 1, prefixed, scratch, sink);
  }
  if (step.behavior == SplitBehavior::kIsolated) return run_isolated(index, text, scratch, sink);
  for (const Part& part : merge_parts(find_parts(step.regex[0], step.invert, text, scratch), step.behavior))
    run(index + 1, text.substr(part.begin, part.end - part.begin), scratch, sink);
}

// The usual step, without a list: matches and the gaps between them are all pieces, so `invert` changes nothing.
void PreTokenizer::run_isolated(size_t index, std::string_view text, RegexScratch& scratch, const Sink& sink) const {
  const Regex& regex = steps_[index].regex[0];
  Regex::Match match;
  size_t at = 0;
  while (at < text.size() && regex.find(text, at, scratch, match)) {
    run(index + 1, text.substr(at, match.begin - at), scratch, sink);
    run(index + 1, text.substr(match.begin, match.end - match.begin), scratch, sink);
    at = match.end;
  }
  run(index + 1, text.substr(at), scratch, sink);
}

std::string PreTokenizer::describe() const {
  std::string out;
  for (const Step& step : steps_) {
    if (!out.empty()) out += ", then ";
    out += step.regex.empty() ? std::string("prefix space") : "split " + step.regex[0].pattern();
  }
  return out.empty() ? "none" : out;
}

}  // namespace restkv
