#include "model/tokenizer/hf_pre_tokenizer.h"

#include <map>

#include "dist/base/error.h"
#include "model/tokenizer/json_value.h"

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

}  // namespace

Normalizer read_hf_normalizer(const nlohmann::json& json, const std::string& file) {
  if (json.is_null()) return Normalizer::kNone;
  std::vector<JsonValue> steps;
  flatten(JsonValue(json, file, "normalizer"), "normalizers", 0, steps);
  for (const JsonValue& step : steps)
    if (step.at("type").string() != "NFC")
      step.fail(fmt::format("found type '{}'; supported: null, NFC, Sequence", step.at("type").string()));
  return steps.empty() ? Normalizer::kNone : Normalizer::kNfc;
}

PreTokenizer read_hf_pre_tokenizer(const nlohmann::json& json, const std::string& file) {
  const JsonValue root(json, file, "pre_tokenizer");
  constexpr const char* kByteLevelOnly =
      "only byte-level models are supported: pre_tokenizer must be ByteLevel, or a Sequence that ends with it";
  if (root.is_null()) root.fail(fmt::format("found null; {}", kByteLevelOnly));
  std::vector<JsonValue> steps;
  flatten(root, "pretokenizers", 0, steps);
  if (steps.empty()) root.fail(fmt::format("found an empty Sequence; {}", kByteLevelOnly));
  PreTokenizer out;
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::string& type = steps[i].at("type").string();
    const bool last = i + 1 == steps.size();
    if (type == "ByteLevel" && last) {
      add_byte_level(steps[i], out);
    } else if (type == "ByteLevel" || (last && (type == "Split" || type == "Digits"))) {
      steps[i].fail(fmt::format("found {} {}; {}", type, last ? "at the end" : "before the end", kByteLevelOnly));
    } else if (type == "Split") {
      add_split(steps[i], out);
    } else if (type == "Digits") {
      add_digits(steps[i], out);
    } else {
      steps[i].fail(fmt::format("found type '{}'; supported: ByteLevel, Split, Digits, Sequence", type));
    }
  }
  return out;
}

}  // namespace restkv
