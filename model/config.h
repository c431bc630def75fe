// The shape of a transformer, as its own files state it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace restkv {

/// Rotary embedding. type: "default", "llama3", "linear". Factors and positions: transformers' modeling_rope_utils.
struct RopeConfig {
  std::string type = "default";
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 0;
  /// [d/2] or empty: what each inverse frequency is divided by, after the scaling of `type`. GGUF files hold
  /// Llama-3.1's scaling in this form only (tensor rope_freqs.weight).
  std::vector<float> frequency_factors;
};

struct ModelConfig {
  std::string family;  ///< "llama"
  int64_t layers = 0;
  int64_t hidden = 0;        ///< H
  int64_t intermediate = 0;  ///< I, MLP width
  int64_t Hq = 0;            ///< query heads
  int64_t Hkv = 0;           ///< KV heads
  int64_t d = 0;             ///< head size
  int64_t vocab = 0;
  int64_t max_positions = 0;
  double rms_eps = 1e-5;
  bool tied_embeddings = false;
  RopeConfig rope;

  int64_t parameters() const;  ///< number of weights (tied embeddings once)
  /// Throws InputError naming `file`, the key and what is allowed.
  void validate(const std::string& file) const;
};

/// Parses a Hugging Face config.json. Both spellings of the rotary settings are read (rope_theta with rope_scaling,
/// and rope_parameters). Throws InputError for an architecture or rope type that is not supported (listing those that
/// are), a missing key, or a wrong type.
ModelConfig read_hf_config(const std::string& path);

class GgufFile;
/// The same from the metadata of a GGUF file.
ModelConfig read_gguf_config(const GgufFile& file);

}  // namespace restkv
