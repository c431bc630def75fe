// The next token from logits: greedy, or by temperature, top-k and top-p.
#pragma once

#include <cstdint>
#include <span>

namespace restkv {

struct SamplingConfig {
  double temperature = 0.0;  ///< 0: greedy
  int64_t top_k = 0;         ///< 0: all tokens
  double top_p = 1.0;        ///< smallest set of likeliest tokens whose probability reaches top_p
  uint64_t seed = 0;

  /// Throws InputError naming the key and what is allowed.
  void validate() const;
};

/// The token for step `step` of request `request`. Draws come from a counter-based generator keyed by (seed, request,
/// step): the same on every layout, whatever ran before. Greedy takes the lowest id among equals.
int32_t sample(std::span<const float> logits, const SamplingConfig& config, uint64_t request, uint64_t step);

}  // namespace restkv
