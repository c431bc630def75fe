#include "model/config.h"

#include <cmath>

#include "dist/base/error.h"

namespace restkv {
namespace {

/// Keys are named as config.json and the GGUF metadata spell them. The upper limits are far above any model; they keep
/// products of sizes inside 64 bits.
void check_size(const std::string& file, const char* key, int64_t value, int64_t most) {
  if (value < 1 || value > most) fail_input("{}: {}: found {}; 1 to {} is allowed", file, key, value, most);
}

void check_positive(const std::string& file, const char* key, double value) {
  if (!std::isfinite(value) || value <= 0.0)
    fail_input("{}: {}: found {}; a number above 0 is allowed", file, key, value);
}

void validate_yarn(const RopeConfig& rope, const std::string& file) {
  check_positive(file, "beta_fast", rope.beta_fast);
  check_positive(file, "beta_slow", rope.beta_slow);
  check_positive(file, "attention_factor", rope.attention_factor);
  if (rope.beta_fast < rope.beta_slow)
    fail_input("{}: beta_fast: found {}; at least beta_slow ({}) is needed", file, rope.beta_fast, rope.beta_slow);
  if (rope.theta <= 1.0) fail_input("{}: rope_theta: found {}; more than 1 is needed with yarn", file, rope.theta);
}

void validate_rope(const RopeConfig& rope, int64_t d, const std::string& file) {
  if (rope.type != "default" && rope.type != "linear" && rope.type != "dynamic" && rope.type != "yarn" &&
      rope.type != "llama3")
    fail_input("{}: rope_type: found \"{}\"; supported: {}", file, rope.type, kRopeTypes);
  check_positive(file, "rope_theta (rope.freq_base)", rope.theta);
  check_positive(file, "rope scaling factor", rope.factor);
  if (rope.type == "llama3") {
    check_positive(file, "low_freq_factor", rope.low_freq_factor);
    check_positive(file, "high_freq_factor", rope.high_freq_factor);
    if (rope.low_freq_factor >= rope.high_freq_factor)
      fail_input("{}: high_freq_factor: found {}; more than low_freq_factor ({}) is needed", file,
                 rope.high_freq_factor, rope.low_freq_factor);
  }
  if (rope.type == "llama3" || rope.type == "yarn" || rope.type == "dynamic")
    check_size(file, "original_max_position_embeddings", rope.original_max_positions, int64_t{1} << 30);
  if (rope.type == "yarn") validate_yarn(rope, file);
  if (rope.type == "dynamic" && d < 4)
    fail_input("{}: head_dim (attention.key_length): found {}; at least 4 is needed with dynamic scaling", file, d);
  const auto& factors = rope.frequency_factors;
  if (!factors.empty() && static_cast<int64_t>(factors.size()) != d / 2)
    fail_input("{}: rope_freqs.weight: found {} factors; half the head size, {}, is needed", file, factors.size(),
               d / 2);
  for (float f : factors) check_positive(file, "rope_freqs.weight", f);
}

}  // namespace

double ModelConfig::attention_scale() const {
  return traits.query_scale > 0.0 ? traits.query_scale : 1.0 / std::sqrt(static_cast<double>(d));
}

int64_t ModelConfig::parameters() const {
  int64_t attention = hidden * d * (2 * Hq + 2 * Hkv);
  int64_t mlp = 3 * hidden * intermediate;
  if (traits.attention_bias) attention += d * (Hq + 2 * Hkv);
  int64_t norms = (traits.output_norms ? 4 : 2) * hidden;
  int64_t embeddings = vocab * hidden * (tied_embeddings ? 1 : 2);
  return layers * (attention + mlp + norms) + embeddings + hidden;
}

void ModelConfig::validate(const std::string& file) const {
  constexpr int64_t k = 1024;
  check_size(file, "num_hidden_layers (block_count)", layers, 4 * k);
  check_size(file, "hidden_size (embedding_length)", hidden, k * k);
  check_size(file, "intermediate_size (feed_forward_length)", intermediate, 16 * k * k);
  check_size(file, "num_attention_heads (attention.head_count)", Hq, 16 * k);
  check_size(file, "num_key_value_heads (attention.head_count_kv)", Hkv, Hq);
  check_size(file, "head_dim (attention.key_length)", d, 16 * k);
  check_size(file, "vocab_size", vocab, 256 * k * k);
  check_size(file, "max_position_embeddings (context_length)", max_positions, int64_t{1} << 30);
  if (Hq % Hkv != 0)
    fail_input("{}: num_key_value_heads (attention.head_count_kv): found {}; a divisor of the {} query heads is needed",
               file, Hkv, Hq);
  if (d % 2 != 0)
    fail_input("{}: head_dim (attention.key_length): found {}; an even size is needed (rotary pairs)", file, d);
  check_positive(file, "rms_norm_eps (attention.layer_norm_rms_epsilon)", rms_eps);
  if (traits.sliding_window != 0) check_size(file, "sliding_window", traits.sliding_window, int64_t{1} << 30);
  validate_rope(rope, d, file);
}

}  // namespace restkv
