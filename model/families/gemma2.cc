// Gemma 2: Gemma's layer with norms behind attention and MLP, soft-capped scores and logits, a sliding window in every
// other layer, and a scale of the scores of its own.
#include <cmath>

#include "model/families/decoder.h"
#include "model/families/family.h"

namespace restkv {
namespace {

// Layers 0, 2, ... slide, as in every published model.
void check_layer_types(const JsonReader& json, const ModelConfig& config) {
  if (!json.has("layer_types")) return;
  const std::vector<std::string> types = json.texts("layer_types");
  bool alternate = static_cast<int64_t>(types.size()) == config.layers;
  for (size_t i = 0; i < types.size(); ++i)
    alternate = alternate && types[i] == (i % 2 == 0 ? "sliding_attention" : "full_attention");
  if (!alternate) json.reject("layer_types", "sliding_attention and full_attention in turn are supported");
}

double positive_or_none(const JsonReader& json, const char* key) {
  if (!json.has(key)) return 0.0;
  const double value = json.number(key);
  if (!(value > 0.0)) json.reject(key, "a number above 0, or null for none");
  return value;
}

void read_hf(const JsonReader& json, ModelConfig* config) {
  read_hf_sizes(json, config);
  if (!json.has("head_dim")) config->d = 256;
  config->tied_embeddings = json.boolean("tie_word_embeddings", true);
  if (json.text("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh")
    json.reject("hidden_activation", "gelu_pytorch_tanh is supported");
  for (const char* flag : {"attention_bias", "use_bidirectional_attention"})
    if (json.boolean(flag, false)) json.reject(flag, "false is supported");
  check_layer_types(json, *config);
  config->traits = kGemmaTraits;
  config->traits.output_norms = true;
  config->traits.alternating_windows = true;
  config->traits.sliding_window = json.integer("sliding_window", 4096);
  config->traits.attention_softcap = positive_or_none(json, "attn_logit_softcapping");
  config->traits.logit_softcap = positive_or_none(json, "final_logit_softcapping");
  config->traits.query_scale =
      1.0 / std::sqrt(json.has("query_pre_attn_scalar") ? positive_or_none(json, "query_pre_attn_scalar") : 256.0);
  read_hf_rope(json, config);
}

std::vector<TensorSpec> tensors(const ModelConfig& config) { return decoder_tensors(config, false); }

}  // namespace

// GGUF files of it do not say the scale of the scores.
const Family kGemma2Family = {"gemma2", "Gemma2ForCausalLM", "", read_hf, nullptr, tensors};

}  // namespace restkv
