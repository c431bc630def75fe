// Everything a model's own files say: a Hugging Face directory or one GGUF file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/tokenizer/tokenizer.h"
#include "model/weights/weight_source.h"

namespace restkv {

struct Checkpoint {
  std::string path;
  std::string format;  ///< "safetensors" or "gguf"
  ModelConfig config;
  std::shared_ptr<WeightSource> weights;
  std::shared_ptr<Tokenizer> tokenizer;  ///< null when the directory has none (logits can still be computed)
  std::string chat_template;             ///< empty: none
  std::vector<int32_t> stop_tokens;      ///< from generation_config, else the tokenizer's eos
};

/// Opens a directory with config.json, or a .gguf file. Reads headers only. Throws InputError naming the file.
Checkpoint open_checkpoint(const std::string& path);

}  // namespace restkv
