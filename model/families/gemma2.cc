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

FamilyTraits gemma2_traits() {
  FamilyTraits traits = kGemmaTraits;
  traits.output_norms = true;
  traits.alternating_windows = true;
  return traits;
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
  config->traits = gemma2_traits();
  config->traits.sliding_window = json.integer("sliding_window", 4096);
  config->traits.attention_softcap = positive_or_none(json, "attn_logit_softcapping");
  config->traits.logit_softcap = positive_or_none(json, "final_logit_softcapping");
  config->traits.query_scale =
      1.0 / std::sqrt(json.has("query_pre_attn_scalar") ? positive_or_none(json, "query_pre_attn_scalar") : 256.0);
  read_hf_rope(json, config);
}

// The files do not say the scale of the scores: it is that of the head size, but in the 27B, which has 46 layers, that
// of hidden / heads. Keys that are not there have the values of the published models.
void read_gguf(const GgufFile& file, ModelConfig* config) {
  read_gguf_sizes(file, "gemma2", config);
  read_gguf_rope(file, "gemma2", config);
  config->traits = gemma2_traits();
  config->traits.norm_offset = 0.0;  // these files hold 1 + w
  config->traits.sliding_window = file.get_integer("gemma2.attention.sliding_window", 4096);
  config->traits.attention_softcap = file.get_number("gemma2.attn_logit_softcapping", 50.0);
  config->traits.logit_softcap = file.get_number("gemma2.final_logit_softcapping", 30.0);
  for (const char* key : {"gemma2.attn_logit_softcapping", "gemma2.final_logit_softcapping"})
    if (!(file.get_number(key, 1.0) > 0.0)) file.reject(key, "a number above 0 is allowed");
  const double width = config->layers == 46 ? static_cast<double>(config->hidden) / static_cast<double>(config->Hq)
                                            : static_cast<double>(config->d);
  config->traits.query_scale = 1.0 / std::sqrt(width);
}

std::vector<TensorSpec> tensors(const ModelConfig& config) { return decoder_tensors(config, false); }

}  // namespace

const Family kGemma2Family = {"gemma2", "Gemma2ForCausalLM", "gemma2", read_hf, read_gguf, tensors};

}  // namespace restkv
