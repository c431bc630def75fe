// Byte-level BPE (GPT-2, Llama 3, Qwen2, SmolLM, ...): the parts that a model file supplies, and the tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/tokenizer.h"

namespace restkv {

/// A vocabulary as the file writes it: entries in the byte alphabet, with ids.
struct BpeFile {
  std::string origin;      ///< file, for messages
  std::string tokens_key;  ///< "model.vocab", "tokenizer.ggml.tokens"
  std::string merges_key;
  std::vector<std::pair<std::string, int64_t>> tokens;
  std::vector<std::pair<std::string, std::string>> merges;  ///< best first
};

/// The same, checked and ready for use.
struct BpeVocabulary {
  std::vector<std::string> bytes;     ///< by id: what the token stands for; empty where there is no token
  std::array<int32_t, 256> byte_ids;  ///< id of each single byte, or -1
  std::unordered_map<std::string, int32_t> by_bytes;
  BpeMerges merges;
};

/// `added` tokens may stand in the file too, then with the same id; what they stand for is their text as it is.
/// Throws InputError for no tokens, no merges, duplicate tokens or ids, ids out of range, and merges whose parts or
/// result are not in the vocabulary.
BpeVocabulary build_bpe_vocabulary(const BpeFile& file, const std::vector<AddedToken>& added);

struct ByteLevelBpeParts {
  std::string origin;
  std::string name;  ///< of the pipeline, for describe()
  BpeVocabulary vocabulary;
  std::vector<AddedToken> added;  ///< as given to build_bpe_vocabulary
  Normalizer normalizer = Normalizer::kNone;
  PreTokenizer pre_tokenizer;
  bool ignore_merges = false;  ///< a word that is a token as a whole is that token
  int32_t unknown = -1;        ///< stands for bytes without a token; -1: such bytes are dropped
  bool fuse_unknown = false;   ///< one unknown token for a run of them
  int32_t bos = -1;
  int32_t eos = -1;
  bool add_bos = false;
};

/// Throws InputError for bos, eos and unknown ids out of range.
std::shared_ptr<Tokenizer> make_byte_level_bpe(ByteLevelBpeParts parts);

}  // namespace restkv
