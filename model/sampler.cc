#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "dist/base/error.h"
#include "dist/base/mix.h"

namespace restkv {
namespace {

int32_t greedy(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

void SamplingConfig::validate() const {
  if (!(temperature >= 0.0)) fail_input("generate.temperature: {} found, 0 (greedy) or more allowed", temperature);
  if (top_k < 0) fail_input("generate.top_k: {} found, 0 (all) or more allowed", top_k);
  if (!(top_p > 0.0 && top_p <= 1.0)) fail_input("generate.top_p: {} found, more than 0 up to 1 allowed", top_p);
}

int32_t sample(std::span<const float> logits, const SamplingConfig& config, uint64_t request, uint64_t step) {
  RESTKV_CHECK(!logits.empty(), "no logits to sample from");
  if (config.temperature == 0.0) return greedy(logits);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  size_t keep = config.top_k > 0 ? std::min<size_t>(static_cast<size_t>(config.top_k), order.size()) : order.size();
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(keep), order.end(), likelier);
  order.resize(keep);

  std::vector<double> weight(keep);
  for (size_t i = 0; i < keep; ++i)
    weight[i] = std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) / config.temperature);
  double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  double reached = 0.0;
  size_t nucleus = 0;
  while (nucleus < keep && (nucleus == 0 || reached < config.top_p * total)) reached += weight[nucleus++];

  double target = unit_interval(mix64(mix64(mix64(config.seed) + request) + step)) * reached;
  for (size_t i = 0; i + 1 < nucleus; ++i) {
    target -= weight[i];
    if (target < 0.0) return order[i];
  }
  return order[nucleus - 1];
}

}  // namespace restkv
