// What the configurations and the tensors of decoder-only models have in common; families are put together from it.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/json_reader.h"
#include "model/weights/gguf_file.h"
#include "model/weights/tensor_spec.h"

namespace restkv {

/// Sizes, head counts, positions and rms_eps. Keys that transformers may leave out get its defaults: head_dim is
/// hidden / heads, num_key_value_heads is the number of heads.
void read_hf_sizes(const JsonReader& json, ModelConfig* config);
/// The rotary settings in either spelling. Types: kRopeTypes. Raises max_positions to what linear, dynamic and yarn
/// scaling stretch the original positions to.
void read_hf_rope(const JsonReader& json, ModelConfig* config);

/// The same from the keys "ARCHITECTURE.*". The embeddings are tied when the file has no tensor output.weight.
void read_gguf_sizes(const GgufFile& file, const std::string& architecture, ModelConfig* config);
/// Scaling types: none, linear, yarn; and the tensor rope_freqs.weight.
void read_gguf_rope(const GgufFile& file, const std::string& architecture, ModelConfig* config);

/// Embeddings, norms, q, k, v (with biases where the traits say so), o, gate, up and down of every layer, and lm_head
/// unless tied.
/// `interleaved`: GGUF files of this family hold q and k in the row order of interleaved rotation.
std::vector<TensorSpec> decoder_tensors(const ModelConfig& config, bool interleaved);

}  // namespace restkv
