// Qwen2 and Qwen2.5: Llama's layer with biases on q, k and v.
#include "model/families/decoder.h"
#include "model/families/family.h"

namespace restkv {
namespace {

void read_hf(const JsonReader& json, ModelConfig* config) {
  read_hf_sizes(json, config);
  config->tied_embeddings = json.boolean("tie_word_embeddings", false);
  if (json.text("hidden_act", "silu") != "silu") json.reject("hidden_act", "silu is supported");
  // It would hold for the layers from max_window_layers on.
  if (json.boolean("use_sliding_window", false)) json.reject("use_sliding_window", "false is supported");
  config->traits = kQwen2Traits;
  read_hf_rope(json, config);
}

void read_gguf(const GgufFile& file, ModelConfig* config) {
  read_gguf_sizes(file, "qwen2", config);
  read_gguf_rope(file, "qwen2", config);
  config->traits = kQwen2Traits;
}

std::vector<TensorSpec> tensors(const ModelConfig& config) { return decoder_tensors(config, false); }

}  // namespace

const Family kQwen2Family = {"qwen2", "Qwen2ForCausalLM", "qwen2", read_hf, read_gguf, tensors};

}  // namespace restkv
