// Gemma 1: GeGLU, norms of 1 + w, embeddings times sqrt(hidden), heads of 256, the head tied to the embeddings.
#include "model/families/decoder.h"
#include "model/families/family.h"

namespace restkv {
namespace {

void read_hf(const JsonReader& json, ModelConfig* config) {
  read_hf_sizes(json, config);
  if (!json.has("head_dim")) config->d = 256;
  config->tied_embeddings = json.boolean("tie_word_embeddings", true);
  // "gelu" stands in the first files, by mistake; the model was trained with the tanh form, and the reference runs it.
  const char* key = json.has("hidden_activation") ? "hidden_activation" : "hidden_act";
  const std::string activation = json.text(key, "gelu_pytorch_tanh");
  if (activation != "gelu_pytorch_tanh" && !(activation == "gelu" && key == std::string_view("hidden_act")))
    json.reject(key, "gelu_pytorch_tanh is supported");
  for (const char* flag : {"attention_bias", "use_bidirectional_attention"})
    if (json.boolean(flag, false)) json.reject(flag, "false is supported");
  config->traits = kGemmaTraits;
  read_hf_rope(json, config);
}

void read_gguf(const GgufFile& file, ModelConfig* config) {
  read_gguf_sizes(file, "gemma", config);
  read_gguf_rope(file, "gemma", config);
  config->traits = kGemmaTraits;
  config->traits.norm_offset = 0.0;  // these files hold 1 + w
}

std::vector<TensorSpec> tensors(const ModelConfig& config) { return decoder_tensors(config, false); }

}  // namespace

const Family kGemmaFamily = {"gemma", "GemmaForCausalLM", "gemma", read_hf, read_gguf, tensors};

}  // namespace restkv
