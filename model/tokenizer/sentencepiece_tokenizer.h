// SentencePiece models, run by the sentencepiece library.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/sentencepiece_model.h"
#include "model/tokenizer/tokenizer.h"

namespace restkv {

struct SentencePieceParts {
  std::string origin;
  std::string name;        ///< of the file, for describe()
  std::string serialized;  ///< the model file's bytes
  SentencePieceModel model;
  /// Looked for in the text before the library sees it, besides the model's control pieces. May have ids of their own.
  std::vector<AddedToken> added;
  int32_t bos = -1;
  int32_t eos = -1;
  bool add_bos = false;
  bool add_eos = false;
};

/// Throws InputError for a model that the library refuses and for ids out of range.
std::shared_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceParts parts);

/// tokenizer.model of a Hugging Face directory, with tokenizer_config.json and added_tokens.json where they are. The
/// text before, between and after special tokens is encoded by itself, each part with the space before it that the
/// model asks for; bos comes first unless add_bos_token is false.
std::shared_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::string& directory);

}  // namespace restkv
