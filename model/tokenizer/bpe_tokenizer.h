// Byte-pair encoding over bytes (GPT-2, Llama 3, Qwen2, SmolLM) or over characters with byte fallback (tokenizer.json
// of Llama 2, Mistral, Gemma): the parts that a model file supplies, and the tokenizer.
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

/// What the smallest symbols are. kBytes: entries are written in the byte alphabet (byte_alphabet.h). kCharacters: they
/// are text, and "<0x0A>" is the byte 0A.
enum class BpeAlphabet { kBytes, kCharacters };

/// A vocabulary as the file writes it, with ids.
struct BpeFile {
  BpeAlphabet alphabet = BpeAlphabet::kBytes;
  std::string origin;      ///< file, for messages
  std::string tokens_key;  ///< "model.vocab", "tokenizer.ggml.tokens"
  std::string merges_key;
  std::vector<std::pair<std::string, int64_t>> tokens;
  std::vector<std::pair<std::string, std::string>> merges;  ///< best first
};

/// The same, checked and ready for use.
struct BpeVocabulary {
  std::vector<std::string> bytes;     ///< by id: what the token stands for ("<0x0A>" as it is); empty: no token
  std::array<int32_t, 256> byte_ids;  ///< id of each single byte, or -1
  std::unordered_map<std::string, int32_t> by_bytes;
  BpeMerges merges;
};

/// `added` tokens may stand in the file too, then with the same id; what they stand for is their text as it is.
/// Throws InputError for no tokens, no merges, duplicate tokens or ids, ids out of range, and merges whose parts or
/// result are not in the vocabulary.
BpeVocabulary build_bpe_vocabulary(const BpeFile& file, const std::vector<AddedToken>& added);

/// How the pieces of a model over characters become text again.
struct PieceDecoding {
  std::string space;           ///< what stands for a space, mostly U+2581; empty: nothing does
  bool byte_fallback = false;  ///< "<0x0A>" is the byte 0A
  int64_t leading_spaces = 0;  ///< taken from the beginning of the text

  /// The byte that a piece stands for, or -1.
  int byte_of(std::string_view piece) const;
  std::string text_of(std::string_view piece) const;
};

struct BpeParts {
  std::string origin;
  std::string name;  ///< of the pipeline, for describe()
  BpeAlphabet alphabet = BpeAlphabet::kBytes;
  BpeVocabulary vocabulary;
  std::vector<AddedToken> added;  ///< as given to build_bpe_vocabulary
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  bool ignore_merges = false;  ///< a word that is a token as a whole is that token
  bool byte_fallback = false;  ///< kCharacters: a character without a token is its bytes, if they all have tokens
  int32_t unknown = -1;        ///< stands for bytes or characters without a token; -1: they are dropped
  bool fuse_unknown = false;   ///< one unknown token for a run of them
  PieceDecoding decoding;      ///< kCharacters
  int32_t bos = -1;
  int32_t eos = -1;
  bool add_bos = false;
  bool add_eos = false;
};

/// Throws InputError for bos, eos and unknown ids out of range.
std::shared_ptr<Tokenizer> make_bpe_tokenizer(BpeParts parts);

}  // namespace restkv
