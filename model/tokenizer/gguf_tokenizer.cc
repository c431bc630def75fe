#include <algorithm>

#include "dist/base/error.h"
#include "model/tokenizer/byte_level_bpe.h"
#include "model/tokenizer/load.h"

namespace restkv {
namespace {

// What tokenizer.ggml.pre stands for. The patterns are those of the models' own tokenizer.json.
struct Pipeline {
  const char* pre;
  std::vector<const char*> patterns;  // applied one after the other, all parts kept
  Normalizer normalizer = Normalizer::kNone;
  bool ignore_merges = false;
  bool add_bos = false;  // where the file has no tokenizer.ggml.add_bos_token
};

constexpr const char* kEachDigit = R"(\p{N})";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<Pipeline>& pipelines() {
  static const std::vector<Pipeline> table = {
      {"gpt-2", {kGpt2Pattern}},
      {"default", {kGpt2Pattern}},
      {"smollm", {kEachDigit, kGpt2Pattern}},
      {"starcoder", {kEachDigit, kGpt2Pattern}},
      {"llama-bpe", {kLlama3}, Normalizer::kNone, true, true},
      {"llama3", {kLlama3}, Normalizer::kNone, true, true},
      {"qwen2", {kQwen2}, Normalizer::kNfc},
  };
  return table;
}

const Pipeline& find_pipeline(const GgufTokenizerData& data) {
  std::string supported;
  for (const Pipeline& pipeline : pipelines()) {
    if (data.pre == pipeline.pre) return pipeline;
    supported += (supported.empty() ? "" : ", ") + std::string(pipeline.pre);
  }
  if (data.pre.empty())
    fail_input("{}: tokenizer.ggml.pre is missing, so it is unknown how to cut text into words; supported: {}",
               data.origin, supported);
  fail_input("{}: tokenizer.ggml.pre is '{}'; supported: {}", data.origin, data.pre, supported);
}

enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

int32_t checked_id(const GgufTokenizerData& data, const char* key, int64_t id) {
  const auto count = static_cast<int64_t>(data.tokens.size());
  if (id < -1 || id >= count)
    fail_input("{}: {} is {}; allowed: 0 to {} (tokenizer.ggml.tokens has {} entries)", data.origin, key, id, count - 1,
               count);
  return static_cast<int32_t>(id);
}

void read_tokens(GgufTokenizerData& data, BpeFile& file, std::vector<AddedToken>& added) {
  if (!data.token_type.empty() && data.token_type.size() != data.tokens.size())
    fail_input("{}: tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens {}; they must be as many",
               data.origin, data.token_type.size(), data.tokens.size());
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    const int32_t type = data.token_type.empty() ? kNormal : data.token_type[id];
    if (type < kNormal || type > kByte)
      fail_input("{}: tokenizer.ggml.token_type[{}] is {}; allowed: 1 to 6", data.origin, id, type);
    const bool named = static_cast<int64_t>(id) == data.bos || static_cast<int64_t>(id) == data.eos;
    if (type == kControl || type == kUnknown || type == kUserDefined || named) {
      AddedToken token;
      token.content = data.tokens[id];
      token.id = static_cast<int32_t>(id);
      token.special = type != kUserDefined || named;
      added.push_back(std::move(token));
    }
    file.tokens.emplace_back(std::move(data.tokens[id]), static_cast<int64_t>(id));
  }
}

void read_merges(const GgufTokenizerData& data, BpeFile& file) {
  file.merges.reserve(data.merges.size());
  for (size_t i = 0; i < data.merges.size(); ++i) {
    const std::string& rule = data.merges[i];
    const size_t space = rule.find(' ');
    if (space == 0 || space == std::string::npos || space + 1 == rule.size() ||
        rule.find(' ', space + 1) != std::string::npos)
      fail_input("{}: tokenizer.ggml.merges[{}] is '{}'; expected two tokens with one space between them", data.origin,
                 i, rule);
    file.merges.emplace_back(rule.substr(0, space), rule.substr(space + 1));
  }
}

}  // namespace

std::shared_ptr<Tokenizer> make_gguf_tokenizer(GgufTokenizerData data) {
  if (data.model != "gpt2")
    fail_input("{}: tokenizer.ggml.model is '{}'; supported: gpt2 (byte-level BPE)", data.origin, data.model);
  const Pipeline& pipeline = find_pipeline(data);
  ByteLevelBpeParts parts;
  parts.origin = data.origin;
  parts.name = data.pre;
  parts.bos = checked_id(data, "tokenizer.ggml.bos_token_id", data.bos);
  parts.eos = checked_id(data, "tokenizer.ggml.eos_token_id", data.eos);
  parts.add_bos = data.add_bos.value_or(pipeline.add_bos && data.bos >= 0);
  parts.normalizer = pipeline.normalizer;
  parts.ignore_merges = pipeline.ignore_merges;
  if (data.add_space_prefix) parts.pre_tokenizer.add_prefix_space();
  for (const char* pattern : pipeline.patterns)
    parts.pre_tokenizer.add_split(Regex(pattern, data.origin), SplitBehavior::kIsolated, false);
  BpeFile file;
  file.origin = data.origin;
  file.tokens_key = "tokenizer.ggml.tokens";
  file.merges_key = "tokenizer.ggml.merges";
  read_tokens(data, file, parts.added);
  read_merges(data, file);
  parts.vocabulary = build_bpe_vocabulary(file, parts.added);
  return make_byte_level_bpe(std::move(parts));
}

}  // namespace restkv
