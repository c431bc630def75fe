#include <algorithm>

#include "dist/base/error.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/load.h"
#include "model/tokenizer/sentencepiece_tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

// What tokenizer.ggml.pre stands for. The patterns are those of the models' own tokenizer.json.
struct Pipeline {
  const char* pre;
  std::vector<const char*> patterns;  // applied one after the other, all parts kept
  bool nfc = false;
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
      {"llama-bpe", {kLlama3}, false, true, true},
      {"llama3", {kLlama3}, false, true, true},
      {"qwen2", {kQwen2}, true},
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

using TokenType = SentencePieceModel::Type;  // GGUF took the numbers over

int32_t checked_id(const GgufTokenizerData& data, const char* key, int64_t id) {
  const auto count = static_cast<int64_t>(data.tokens.size());
  if (id < -1 || id >= count)
    fail_input("{}: {} is {}; allowed: 0 to {} (tokenizer.ggml.tokens has {} entries)", data.origin, key, id, count - 1,
               count);
  return static_cast<int32_t>(id);
}

int32_t checked_type(const GgufTokenizerData& data, size_t id) {
  const int32_t type = data.token_type.empty() ? TokenType::kNormal : data.token_type[id];
  if (type < TokenType::kNormal || type > TokenType::kByte)
    fail_input("{}: tokenizer.ggml.token_type[{}] is {}; allowed: 1 to 6", data.origin, id, type);
  return type;
}

void read_tokens(GgufTokenizerData& data, BpeFile& file, std::vector<AddedToken>& added) {
  if (!data.token_type.empty() && data.token_type.size() != data.tokens.size())
    fail_input("{}: tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens {}; they must be as many",
               data.origin, data.token_type.size(), data.tokens.size());
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    const int32_t type = checked_type(data, id);
    const bool named = static_cast<int64_t>(id) == data.bos || static_cast<int64_t>(id) == data.eos;
    if (type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kUserDefined || named) {
      AddedToken token;
      token.content = data.tokens[id];
      token.id = static_cast<int32_t>(id);
      token.special = type != TokenType::kUserDefined || named;
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

std::shared_ptr<Tokenizer> make_byte_level(GgufTokenizerData data) {
  const Pipeline& pipeline = find_pipeline(data);
  BpeParts parts;
  parts.origin = data.origin;
  parts.name = data.pre;
  parts.bos = checked_id(data, "tokenizer.ggml.bos_token_id", data.bos);
  parts.eos = checked_id(data, "tokenizer.ggml.eos_token_id", data.eos);
  parts.add_bos = data.add_bos.value_or(pipeline.add_bos && data.bos >= 0);
  parts.add_eos = data.add_eos.value_or(false);
  if (pipeline.nfc) parts.normalizer.add_nfc();
  parts.ignore_merges = pipeline.ignore_merges;
  if (data.add_space_prefix.value_or(false)) parts.pre_tokenizer.add_prefix_space();
  for (const char* pattern : pipeline.patterns)
    parts.pre_tokenizer.add_split(Regex(pattern, data.origin), SplitBehavior::kIsolated, false);
  BpeFile file;
  file.origin = data.origin;
  file.tokens_key = "tokenizer.ggml.tokens";
  file.merges_key = "tokenizer.ggml.merges";
  read_tokens(data, file, parts.added);
  read_merges(data, file);
  parts.vocabulary = build_bpe_vocabulary(file, parts.added);
  return make_bpe_tokenizer(std::move(parts));
}

// The pieces of the SentencePiece model from which the file was made.
std::shared_ptr<Tokenizer> make_sentencepiece(GgufTokenizerData data) {
  const size_t count = data.tokens.size();
  if (count == 0) fail_input("{}: tokenizer.ggml.tokens is missing or empty", data.origin);
  if (data.scores.size() != count || data.token_type.size() != count)
    fail_input("{}: tokenizer.ggml.tokens has {} entries, scores {}, token_type {}; they must be as many", data.origin,
               count, data.scores.size(), data.token_type.size());
  SentencePieceParts parts;
  parts.origin = data.origin;
  parts.name = "GGUF";
  parts.bos = checked_id(data, "tokenizer.ggml.bos_token_id", data.bos);
  parts.eos = checked_id(data, "tokenizer.ggml.eos_token_id", data.eos);
  parts.add_bos = data.add_bos.value_or(data.bos >= 0);
  parts.add_eos = data.add_eos.value_or(false);
  SentencePieceModel& model = parts.model;
  model.model_type = SentencePieceModel::kBpe;
  model.bos_id = parts.bos;
  model.eos_id = parts.eos;
  model.add_dummy_prefix = data.add_space_prefix.value_or(true);
  model.remove_extra_whitespaces = false;
  bool unknown = false;
  for (size_t id = 0; id < count; ++id) {
    const int32_t type = checked_type(data, id);
    require_utf8(data.tokens[id], fmt::format("{}: tokenizer.ggml.tokens[{}]", data.origin, id));
    model.byte_fallback = model.byte_fallback || type == TokenType::kByte;
    if (type == TokenType::kUnknown) model.unk_id = static_cast<int32_t>(id);
    unknown = unknown || type == TokenType::kUnknown;
    model.pieces.push_back({std::move(data.tokens[id]), data.scores[id], type});
  }
  if (!unknown) {  // the library needs one
    model.unk_id = std::max(checked_id(data, "tokenizer.ggml.unknown_token_id", data.unknown), 0);
    model.pieces[model.unk_id].type = TokenType::kUnknown;
  }
  parts.serialized = write_sentencepiece_model(model);
  return make_sentencepiece_tokenizer(std::move(parts));
}

}  // namespace

std::shared_ptr<Tokenizer> make_gguf_tokenizer(GgufTokenizerData data) {
  if (data.model == "gpt2") return make_byte_level(std::move(data));
  if (data.model == "llama") return make_sentencepiece(std::move(data));
  fail_input("{}: tokenizer.ggml.model is '{}'; supported: gpt2 (byte-level BPE), llama (SentencePiece BPE)",
             data.origin, data.model);
}

}  // namespace restkv
