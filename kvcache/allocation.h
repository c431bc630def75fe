// How the budget is dealt to the layers. (To the heads of a layer: head_budgets.h.)
#pragma once

#include <cstdint>

#include "kvcache/config.h"

namespace restkv {

/// Tokens that each head of layer `layer` of `layers` keeps of a prompt of L, the window included (with ada: on
/// average over the heads). B = the budget
/// resolved for L, W = the window.
///   uniform, ada: B
///   pyramid, ada_pyramid (PyramidKV): falls linearly from hi to lo past tokens, lo = (B - W) / 20 (rounded down, at
///   least what the policy needs), hi = 2 (B - W) - lo; where hi exceeds the L - W that there are, hi = L - W and lo =
///   2 (B - W) - hi. Rounded so that layers l and layers - 1 - l keep 2 (B - W) together: the sum over the layers is
///   that of uniform, exactly. (A whole step per layer, as published, keeps up to layers (layers - 1) / 2 tokens more.)
/// Preconditions: the policy evicts, B <= L, B >= CacheConfig::least_budget(), 0 <= layer < layers.
int64_t layer_budget(const CacheConfig& config, int64_t L, int64_t layer, int64_t layers);

}  // namespace restkv
