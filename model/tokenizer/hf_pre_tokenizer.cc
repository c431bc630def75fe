#include "model/tokenizer/hf_pre_tokenizer.h"

#include <map>

#include "dist/base/error.h"
#include "model/json_reader.h"
#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

constexpr int kMaxDepth = 16;  // of Sequences inside Sequences

// The steps of nested Sequences, in order. `list`: the member that holds them.
void flatten(const JsonValue& json, const char* list, int depth, std::vector<JsonValue>& steps) {
  if (json.at("type").string() != "Sequence") {
    steps.push_back(json);
    return;
  }
  if (depth == kMaxDepth) json.fail("Sequences are nested too deeply");
  const JsonValue members = json.at(list);
  for (size_t i = 0; i < members.array().size(); ++i) flatten(members.at(i), list, depth + 1, steps);
}

SplitBehavior read_behavior(const JsonValue& json) {
  static const std::map<std::string, SplitBehavior> known = {
      {"Isolated", SplitBehavior::kIsolated},
      {"Removed", SplitBehavior::kRemoved},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  };
  const auto entry = known.find(json.string());
  if (entry == known.end())
    json.fail(fmt::format("found '{}'; supported: Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous",
                          json.string()));
  return entry->second;
}

void add_split(const JsonValue& step, PreTokenizer& out) {
  const JsonValue pattern = step.at("pattern");
  const JsonValue regex = pattern.at("Regex");
  const JsonValue literal = pattern.at("String");
  if (regex.is_null() == literal.is_null()) pattern.fail("expected either \"Regex\" or \"String\"");
  const std::string text = regex.is_null() ? regex_escape(literal.string()) : regex.string();
  if (text.empty()) pattern.fail("the pattern is empty");
  out.add_split(Regex(text, pattern.where()), read_behavior(step.at("behavior")), step.at("invert").boolean_or(false));
}

void add_digits(const JsonValue& step, PreTokenizer& out) {
  const bool each = step.at("individual_digits").boolean_or(false);
  out.add_split(Regex(each ? R"(\p{N})" : R"(\p{N}+)", step.where()), SplitBehavior::kIsolated, false);
}

void add_byte_level(const JsonValue& step, PreTokenizer& out) {
  if (step.at("add_prefix_space").boolean_or(true)) out.add_prefix_space();
  if (step.at("use_regex").boolean_or(true))
    out.add_split(Regex(kGpt2Pattern, step.where()), SplitBehavior::kIsolated, false);
}

// A character, as "replacement" of Metaspace is.
std::string read_character(const JsonValue& json) {
  const std::string& text = json.string();
  if (text.empty() || next_utf8(text, 0).length != text.size())
    json.fail(fmt::format("found '{}'; expected one character", text));
  return text;
}

void add_metaspace(const JsonValue& step, PreTokenizer& out) {
  static const std::map<std::string, PrependScheme> known = {
      {"never", PrependScheme::kNever}, {"first", PrependScheme::kFirst}, {"always", PrependScheme::kAlways}};
  const JsonValue scheme = step.at("prepend_scheme");
  PrependScheme value = PrependScheme::kAlways;
  if (!scheme.is_null()) {
    const auto entry = known.find(scheme.string());
    if (entry == known.end()) scheme.fail(fmt::format("found '{}'; supported: never, first, always", scheme.string()));
    value = entry->second;
  } else if (!step.at("add_prefix_space").boolean_or(true)) {  // the spelling of older files
    value = PrependScheme::kNever;
  }
  out.add_metaspace(read_character(step.at("replacement")), value, step.at("split").boolean_or(true));
}

void add_replace(const JsonValue& step, Normalizer& out) {
  const JsonValue from = step.at("pattern").at("String");
  if (from.is_null()) step.at("pattern").fail("supported: a \"String\"");
  if (from.string().empty()) from.fail("the pattern is empty");
  out.add_replace(from.string(), step.at("content").string());
}

}  // namespace

Normalizer read_hf_normalizer(const nlohmann::json& json, const std::string& file) {
  Normalizer out;
  if (json.is_null()) return out;
  std::vector<JsonValue> steps;
  flatten(JsonValue(json, file, "normalizer"), "normalizers", 0, steps);
  for (const JsonValue& step : steps) {
    const std::string& type = step.at("type").string();
    if (type == "NFC") {
      out.add_nfc();
    } else if (type == "Prepend") {
      out.add_prepend(step.at("prepend").string());
    } else if (type == "Replace") {
      add_replace(step, out);
    } else {
      step.fail(fmt::format("found type '{}'; supported: null, NFC, Prepend, Replace, Sequence", type));
    }
  }
  return out;
}

HfPreTokenizer read_hf_pre_tokenizer(const nlohmann::json& json, const std::string& file) {
  HfPreTokenizer out;
  if (json.is_null()) return out;
  std::vector<JsonValue> steps;
  flatten(JsonValue(json, file, "pre_tokenizer"), "pretokenizers", 0, steps);
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::string& type = steps[i].at("type").string();
    if (type == "ByteLevel" && i + 1 == steps.size()) {
      add_byte_level(steps[i], out.steps);
      out.byte_level = true;
    } else if (type == "ByteLevel") {
      steps[i].fail("found ByteLevel before the end; it must be the last step");
    } else if (type == "Split") {
      add_split(steps[i], out.steps);
    } else if (type == "Digits") {
      add_digits(steps[i], out.steps);
    } else if (type == "Metaspace") {
      add_metaspace(steps[i], out.steps);
    } else {
      steps[i].fail(
          fmt::format("found type '{}'; supported: null, ByteLevel, Metaspace, Split, Digits, Sequence", type));
    }
  }
  return out;
}

}  // namespace restkv
