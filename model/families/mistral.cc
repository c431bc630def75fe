// Mistral 7B v0.1 to v0.3 and its like: Llama's layer, in v0.1 with a sliding window. GGUF files of it say "llama".
#include "model/families/decoder.h"
#include "model/families/family.h"

namespace restkv {
namespace {

void read_hf(const JsonReader& json, ModelConfig* config) {
  read_hf_sizes(json, config);
  config->tied_embeddings = json.boolean("tie_word_embeddings", false);
  if (json.text("hidden_act", "silu") != "silu") json.reject("hidden_act", "silu is supported");
  // The reference's default, 4096, stands for a key that is not there; null says that there is no window.
  if (json.stands("sliding_window")) {
    config->traits.sliding_window = json.has("sliding_window") ? json.integer("sliding_window") : 0;
    if (json.has("sliding_window") && config->traits.sliding_window < 1)
      json.reject("sliding_window", "at least 1, or null for none");
  } else {
    config->traits.sliding_window = 4096;
  }
  read_hf_rope(json, config);
}

std::vector<TensorSpec> tensors(const ModelConfig& config) { return decoder_tensors(config, true); }

}  // namespace

const Family kMistralFamily = {"mistral", "MistralForCausalLM", "", read_hf, nullptr, tensors};

}  // namespace restkv
