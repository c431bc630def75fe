// The shape of a transformer, as its own files state it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvcache/attention_form.h"

namespace restkv {

/// What the rope types of config.json may be, for messages.
inline constexpr const char* kRopeTypes = "default, linear, dynamic, yarn, llama3";

/// Rotary embedding. type: one of kRopeTypes. Factors and positions: transformers' modeling_rope_utils.
struct RopeConfig {
  std::string type = "default";
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 0;        ///< of dynamic, yarn and llama3
  double beta_fast = 32.0, beta_slow = 1.0;  ///< yarn: turns over the original positions between which it blends
  bool truncate = true;                      ///< yarn: the blend begins and ends at whole frequencies
  double attention_factor = 1.0;             ///< yarn: cos and sin are multiplied by it
  /// [d/2] or empty: what each inverse frequency is divided by, after the scaling of `type`. GGUF files hold
  /// Llama-3.1's scaling in this form only (tensor rope_freqs.weight).
  std::vector<float> frequency_factors;

  bool operator==(const RopeConfig&) const = default;
};

enum class Activation {
  silu,       ///< g / (1 + exp(-g))
  gelu_tanh,  ///< g / 2 (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3)))
};

/// How a layer differs from Llama's.
struct FamilyTraits {
  Activation activation = Activation::silu;  ///< of the gate
  bool attention_bias = false;               ///< q, k and v have biases
  bool scaled_embeddings = false;  ///< embeddings times sqrt(hidden), that root rounded to the activations' dtype
  double norm_offset = 0.0;        ///< norms multiply by norm_offset + w, w as stored
  /// A query at position p attends positions p - sliding_window + 1 to p; 0: all before it.
  int64_t sliding_window = 0;
  bool alternating_windows = false;  ///< layers 1, 3, ... attend everything
  bool output_norms = false;         ///< what attention and MLP add to the residual stream is normed first
  double query_scale = 0.0;          ///< scores are q . k times it; 0: 1 / sqrt(d)
  double attention_softcap = 0.0;    ///< scores s become cap tanh(s / cap); 0: they stay
  double logit_softcap = 0.0;        ///< the same of the logits
};

struct ModelConfig {
  std::string family;  ///< a name of families/family.cc
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
  FamilyTraits traits = {};

  /// What q . k is multiplied by.
  double attention_scale() const;
  /// How a layer weighs what it attends, for its eviction.
  AttentionForm attention_form(int64_t layer) const {
    return {traits.query_scale, traits.attention_softcap, window_of(layer)};
  }
  /// The sliding window of a layer; 0: none.
  int64_t window_of(int64_t layer) const {
    return traits.alternating_windows && layer % 2 == 1 ? 0 : traits.sliding_window;
  }
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
