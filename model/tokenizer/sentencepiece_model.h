// The contents of a SentencePiece model file (tokenizer.model) that the library does not tell.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace restkv {

/// The fields of ModelProto that matter here, under the names of its definition (sentencepiece_model.proto). Defaults
/// are those of the definition.
struct SentencePieceModel {
  enum Type : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    int32_t type = kNormal;
  };
  enum ModelType : int32_t { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };

  std::vector<Piece> pieces;  ///< by id
  int32_t model_type = kUnigram;
  bool byte_fallback = false;
  int32_t unk_id = 0, bos_id = 1, eos_id = 2;  ///< -1: none
  bool add_dummy_prefix = true;                ///< a space before the text
  bool remove_extra_whitespaces = true;

  const char* type_name() const;  ///< "BPE", "unigram", ...
};

/// `bytes`: a whole file. Throws InputError naming `origin` for what is no such file.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& origin);

/// A file with these contents and no normalization rules, for the library to load.
std::string write_sentencepiece_model(const SentencePieceModel& model);

}  // namespace restkv
