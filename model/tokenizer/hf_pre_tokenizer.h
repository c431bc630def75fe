// Reads the "normalizer" and "pre_tokenizer" of a Hugging Face tokenizer.json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"

namespace restkv {

/// `json`: the value of "normalizer", may be null. Throws InputError naming `file`, the key and what is supported.
Normalizer read_hf_normalizer(const nlohmann::json& json, const std::string& file);

struct HfPreTokenizer {
  PreTokenizer steps;
  bool byte_level = false;  ///< the last step is ByteLevel: the model works on bytes, else on characters
};

/// `json`: the value of "pre_tokenizer", may be null. Throws InputError like the above.
HfPreTokenizer read_hf_pre_tokenizer(const nlohmann::json& json, const std::string& file);

}  // namespace restkv
