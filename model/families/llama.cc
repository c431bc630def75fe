// Llama 2, 3, 3.1, 3.2, and what shares their architecture (SmolLM2, TinyLlama): no biases, SwiGLU, RMSNorm.
#include "model/families/decoder.h"
#include "model/families/family.h"

namespace restkv {
namespace {

void read_hf(const JsonReader& json, ModelConfig* config) {
  read_hf_sizes(json, config);
  config->tied_embeddings = json.boolean("tie_word_embeddings", false);
  if (json.text("hidden_act", "silu") != "silu") json.reject("hidden_act", "silu is supported");
  for (const char* bias : {"attention_bias", "mlp_bias"})
    if (json.boolean(bias, false)) json.reject(bias, "false is supported");
  read_hf_rope(json, config);
}

void read_gguf(const GgufFile& file, ModelConfig* config) {
  if (file.get_integer("llama.expert_count", 0) > 0)
    file.reject("llama.expert_count", "models without experts are supported");
  read_gguf_sizes(file, "llama", config);
  read_gguf_rope(file, "llama", config);
  // Of Mistral files that say it.
  config->traits.sliding_window = file.get_integer("llama.attention.sliding_window", 0);
}

std::vector<TensorSpec> tensors(const ModelConfig& config) { return decoder_tensors(config, true); }

}  // namespace

const Family kLlamaFamily = {"llama", "LlamaForCausalLM", "llama", read_hf, read_gguf, tensors};

}  // namespace restkv
