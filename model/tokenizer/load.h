// The tokenizer that a model's own files describe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace restkv {

/// Reads the tokenizer of a Hugging Face directory: tokenizer.json, else tokenizer.model (SentencePiece); with
/// tokenizer_config.json for added tokens, bos, eos and whether they are put around a text. Null when the directory has
/// no tokenizer. Throws InputError naming the file, the key, what was found and what is supported.
std::shared_ptr<Tokenizer> load_hf_tokenizer(const std::string& directory);

/// The tokenizer.ggml.* metadata of a GGUF file. Optional ids are -1 when the file has no such key.
struct GgufTokenizerData {
  std::string origin;               ///< the file, for messages
  std::string model;                ///< tokenizer.ggml.model: "gpt2" is byte-level BPE, "llama" SentencePiece BPE
  std::string pre;                  ///< tokenizer.ggml.pre, empty when absent
  std::vector<std::string> tokens;  ///< tokenizer.ggml.tokens
  std::vector<int32_t> token_type;  ///< 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; may be empty
  std::vector<float> scores;        ///< may be empty
  std::vector<std::string> merges;  ///< "left right", best first
  int64_t bos = -1;
  int64_t eos = -1;
  int64_t unknown = -1;
  int64_t padding = -1;
  std::optional<bool> add_bos;  ///< tokenizer.ggml.add_bos_token; absent: the rule of `pre`, "llama": if there is one
  std::optional<bool> add_eos;  ///< tokenizer.ggml.add_eos_token; absent: no
  std::optional<bool> add_space_prefix;  ///< absent: no, "llama": yes
};

/// Throws InputError naming data.origin and the metadata key.
std::shared_ptr<Tokenizer> make_gguf_tokenizer(GgufTokenizerData data);

}  // namespace restkv
