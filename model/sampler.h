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
/// step): the same on every layout and device, whatever ran before. Greedy takes the lowest id among equals.
/// Tokens are ranked by logit, then by id. Of the top_k first ones, the shortest run whose weight reaches top_p of
/// their total is kept, and the draw walks the kept ones by ascending id. Weights are integers (sample_weight.h).
int32_t sample(std::span<const float> logits, const SamplingConfig& config, uint64_t request, uint64_t step);

/// How one sequence is sampled, as kernels read it.
struct SequenceSampling {
  double temperature = 0.0;
  double top_p = 1.0;
  int64_t top_k = 0;
  uint64_t key = 0;  ///< sampling_key(seed, request)
};
SequenceSampling sequence_sampling(const SamplingConfig& config, uint64_t request);
int32_t sample(std::span<const float> logits, const SequenceSampling& config, uint64_t step);

}  // namespace restkv
