#include "kvcache/positions.h"

#include <algorithm>
#include <limits>

#include "kvcache/allocation.h"
#include "kvcache/policies/policy.h"

namespace restkv {
namespace {

// The largest budget of a layer, for prompts that are longer than it.
int64_t largest_budget(const CacheConfig& config, const CacheShape& shape, int64_t L) {
  const int64_t B = config.budget.resolve(L);
  if (!deals_to_layers(config.allocation) || B < config.least_budget()) return B;
  CacheConfig fixed = config;
  fixed.budget = {B, 0.0};
  int64_t most = 0;
  for (int64_t layer = 0; layer < shape.layers; ++layer)
    most = std::max(most, layer_budget(fixed, std::max(L, 2 * B), layer, shape.layers));
  return most;
}

}  // namespace

int64_t most_rows_after_prompt(const CacheConfig& config, const CacheShape& shape, int64_t L) {
  if (!find_policy(config.policy).evicts || L <= config.budget.resolve(L)) return L;
  const int64_t most = largest_budget(config, shape, L);
  return std::min(L, deals_to_heads(config.allocation) ? most * shape.heads : most);
}

int64_t most_rows_while_evicting(const CacheConfig& config, const CacheShape& shape, int64_t L) {
  int64_t most = std::max({largest_budget(config, shape, L), config.decode.trigger, config.decode.target});
  if (deals_to_heads(config.allocation)) most *= shape.heads;
  return most + config.decode.every;
}

int64_t decode_room(const CacheConfig& config, const CacheShape& shape, int64_t L, int64_t max_positions) {
  if (!config.re_indexes()) return std::max<int64_t>(0, max_positions - L);
  const bool bounded = config.decode.every > 0 && most_rows_while_evicting(config, shape, L) <= max_positions;
  if (bounded) return std::numeric_limits<int32_t>::max() - L;
  return std::max<int64_t>(0, max_positions - most_rows_after_prompt(config, shape, L));
}

}  // namespace restkv
