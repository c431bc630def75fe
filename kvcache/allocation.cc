#include "kvcache/allocation.h"

#include <algorithm>

#include "dist/base/error.h"

namespace restkv {
namespace {

constexpr int64_t kSteepness = 20;  // the mean past budget over that of the last layer

}  // namespace

int64_t layer_budget(const CacheConfig& config, int64_t L, int64_t layer, int64_t layers) {
  const int64_t B = config.budget.resolve(L), W = config.window;
  if (!deals_to_layers(config.allocation)) return B;
  RESTKV_CHECK(layer >= 0 && layer < layers, "budget of layer {} of {}", layer, layers);
  if (layers == 1) return B;
  const int64_t mean = B - W;
  const int64_t lo = std::max(mean / kSteepness, config.least_budget() - W), hi = std::min(2 * mean - lo, L - W);
  const int64_t span = 2 * (hi - mean);  // hi - lo, where lo makes up for what hi cannot have
  const int64_t other = layers - 1 - layer;
  // The upper half rounds up, the lower half mirrors it; the one in the middle has the mean.
  if (layer < other) return W + hi - span * layer / (layers - 1);
  if (layer > other) return W + 2 * mean - (hi - span * other / (layers - 1));
  return B;
}

}  // namespace restkv
