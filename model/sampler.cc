#include "model/sampler.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "dist/base/error.h"
#include "model/sample_weight.h"

namespace restkv {
namespace {

int32_t greedy(const std::vector<uint32_t>& keys) {
  return static_cast<int32_t>(std::max_element(keys.begin(), keys.end()) - keys.begin());
}

}  // namespace

void SamplingConfig::validate() const {
  if (!(temperature >= 0.0)) fail_input("generate.temperature: {} found, 0 (greedy) or more allowed", temperature);
  if (top_k < 0) fail_input("generate.top_k: {} found, 0 (all) or more allowed", top_k);
  if (!(top_p > 0.0 && top_p <= 1.0)) fail_input("generate.top_p: {} found, more than 0 up to 1 allowed", top_p);
}

SequenceSampling sequence_sampling(const SamplingConfig& config, uint64_t request) {
  return {config.temperature, config.top_p, config.top_k, sampling_key(config.seed, request)};
}

int32_t sample(std::span<const float> logits, const SamplingConfig& config, uint64_t request, uint64_t step) {
  return sample(logits, sequence_sampling(config, request), step);
}

int32_t sample(std::span<const float> logits, const SequenceSampling& config, uint64_t step) {
  RESTKV_CHECK(!logits.empty(), "no logits to sample from");
  std::vector<uint32_t> keys(logits.size());
  std::transform(logits.begin(), logits.end(), keys.begin(), logit_key);
  int32_t top = greedy(keys);
  if (config.temperature == 0.0) return top;
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto likelier = [&](int32_t a, int32_t b) { return keys[a] != keys[b] ? keys[a] > keys[b] : a < b; };
  size_t keep = config.top_k > 0 ? std::min<size_t>(static_cast<size_t>(config.top_k), order.size()) : order.size();
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(keep), order.end(), likelier);
  order.resize(keep);

  float highest = key_logit(keys[top]);
  double scale = log2_scale(config.temperature);
  auto weight = [&](int32_t id) { return sample_weight(key_logit(keys[id]), highest, scale); };
  uint64_t total = 0, reached = 0;
  for (int32_t id : order) total += weight(id);
  if (total == 0) return top;  // no finite logit
  uint64_t goal = nucleus_goal(config.top_p, total);
  size_t nucleus = 0;
  while (nucleus < keep && reached < goal) reached += weight(order[nucleus++]);
  order.resize(nucleus);
  std::sort(order.begin(), order.end());

  uint64_t draw = draw_below(reached, config.key, step), passed = 0;
  for (int32_t id : order) {
    passed += weight(id);
    if (passed > draw) return id;
  }
  return order.back();
}

}  // namespace restkv
