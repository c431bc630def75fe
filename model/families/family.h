// The model architectures that can be read: one file and one table line each.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/json_reader.h"
#include "model/weights/gguf_file.h"
#include "model/weights/tensor_spec.h"

namespace restkv {

struct Family {
  std::string_view name;               ///< ModelConfig::family
  std::string_view hf_architecture;    ///< config.json: architectures
  std::string_view gguf_architecture;  ///< general.architecture; empty: its files bear another family's
  void (*read_hf)(const JsonReader& json, ModelConfig* config);
  void (*read_gguf)(const GgufFile& file, ModelConfig* config);
  std::vector<TensorSpec> (*tensors)(const ModelConfig& config);
};

std::span<const Family> families();
/// Throws RuntimeFailure: a ModelConfig names a family of the table.
const Family& family_of(const ModelConfig& config);

extern const Family kLlamaFamily;
extern const Family kMistralFamily;
extern const Family kGemmaFamily;
extern const Family kGemma2Family;
extern const Family kQwen2Family;

inline constexpr FamilyTraits kGemmaTraits = {
    .activation = Activation::gelu_tanh, .scaled_embeddings = true, .norm_offset = 1.0};
inline constexpr FamilyTraits kQwen2Traits = {.attention_bias = true};

}  // namespace restkv
