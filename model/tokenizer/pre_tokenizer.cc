#include "model/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "model/tokenizer/normalizer.h"

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
  Step step;
  step.regex.push_back(std::move(regex));
  step.behavior = behavior;
  step.invert = invert;
  steps_.push_back(std::move(step));
}

void PreTokenizer::add_prefix_space() {
  Step step;
  step.kind = Kind::kPrefixSpace;
  steps_.push_back(std::move(step));
}

void PreTokenizer::add_metaspace(std::string replacement, PrependScheme scheme, bool split) {
  Step step;
  step.kind = Kind::kMetaspace;
  if (split) step.regex.emplace_back(regex_escape(replacement), "Metaspace");
  step.behavior = SplitBehavior::kMergedWithNext;
  step.replacement = std::move(replacement);
  step.scheme = scheme;
  steps_.push_back(std::move(step));
}

void PreTokenizer::split(std::string_view text, bool first, RegexScratch& scratch, const Sink& sink) const {
  run(0, text, first, {scratch, sink});
}

void PreTokenizer::run(size_t index, std::string_view text, bool first, const Run& state) const {
  if (text.empty()) return;
  if (index == steps_.size()) return state.sink(text);
  const Step& step = steps_[index];
  if (step.kind == Kind::kMetaspace) return run_metaspace(index, text, first, state);
  if (step.kind == Kind::kPrefixSpace) {
    if (text.front() == ' ') return run(index + 1, text, first, state);
    std::string prefixed(1, ' ');
    prefixed += text;
    return run(index + 1, prefixed, first, state);
  }
  if (step.behavior == SplitBehavior::kIsolated) return run_isolated(index, text, first, state);
  run_split(index, text, first, state);
}

void PreTokenizer::run_split(size_t index, std::string_view text, bool first, const Run& state) const {
  const Step& step = steps_[index];
  for (const Part& part : merge_parts(find_parts(step.regex[0], step.invert, text, state.scratch), step.behavior))
    run(index + 1, text.substr(part.begin, part.end - part.begin), first && part.begin == 0, state);
}

// The usual step, without a list: matches and the gaps between them are all pieces, so `invert` changes nothing.
void PreTokenizer::run_isolated(size_t index, std::string_view text, bool first, const Run& state) const {
  const Regex& regex = steps_[index].regex[0];
  Regex::Match match;
  size_t at = 0;
  while (at < text.size() && regex.find(text, at, state.scratch, match)) {
    run(index + 1, text.substr(at, match.begin - at), first && at == 0, state);
    run(index + 1, text.substr(match.begin, match.end - match.begin), first && match.begin == 0, state);
    at = match.end;
  }
  run(index + 1, text.substr(at), first && at == 0, state);
}

void PreTokenizer::run_metaspace(size_t index, std::string_view text, bool first, const Run& state) const {
  const Step& step = steps_[index];
  std::string marked = replace_all(text, " ", step.replacement);
  const bool wanted = step.scheme == PrependScheme::kAlways || (step.scheme == PrependScheme::kFirst && first);
  if (wanted && !marked.starts_with(step.replacement)) marked.insert(0, step.replacement);
  if (step.regex.empty()) return run(index + 1, marked, first, state);
  run_split(index, marked, first, state);
}

std::string PreTokenizer::describe() const {
  std::string out;
  for (const Step& step : steps_) {
    if (!out.empty()) out += ", then ";
    if (step.kind == Kind::kSplit) out += "split " + step.regex[0].pattern();
    if (step.kind == Kind::kPrefixSpace) out += "prefix space";
    if (step.kind == Kind::kMetaspace) out += step.regex.empty() ? "metaspace" : "metaspace, split";
  }
  return out.empty() ? "none" : out;
}

}  // namespace restkv
