// What a Hugging Face directory says about its tokenizer outside tokenizer.json and tokenizer.model.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/json_reader.h"
#include "model/tokenizer/added_tokens.h"

namespace restkv {

/// tokenizer_config.json; what it does not say of bos and eos is taken from special_tokens_map.json.
struct HfTokenizerConfig {
  std::string path;  ///< of tokenizer_config.json
  std::string bos, eos, unknown;
  std::optional<bool> add_bos, add_eos;
  std::vector<AddedToken> added;     ///< added_tokens_decoder
  std::vector<std::string> special;  ///< the texts of all special tokens that are named
};

/// An empty one when there are no such files. Throws InputError naming the file and the key.
HfTokenizerConfig read_hf_tokenizer_config(const std::string& directory);

/// The flags and the content of one added token; its id is left alone.
AddedToken read_added_token(const JsonValue& entry);

/// Puts added_tokens_decoder over `added` (of equal contents its flags hold, with the id that `added` has), and makes
/// the named special tokens special. `id_of` finds a token of the vocabulary by its text, or returns -1.
void merge_added_tokens(const HfTokenizerConfig& config, const std::function<int32_t(const std::string&)>& id_of,
                        std::vector<AddedToken>& added);

}  // namespace restkv
