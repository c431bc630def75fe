// What a row of a block of the grid adds to its softmax.
#pragma once

#include <algorithm>
#include <limits>

#include "kvcache/cpu/lane_tile.h"

namespace restkv::cpu {

/// partial = (max, sum of exp(logit - max)) of logits [padded]; padding holds -inf and adds nothing. (-inf, 0) of a row
/// without a visible position.
inline void softmax_partial(const float* logits, int64_t padded, float* partial) {
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  Lanes high = broadcast_lanes(kMinusInfinity);
  for (int64_t i = 0; i < padded; i += kLanes) high = max_lanes(high, load_lanes(logits + i));
  float max = kMinusInfinity;
  for (int i = 0; i < kLanes; ++i) max = std::max(max, high[i]);
  partial[0] = max;
  partial[1] = 0.0f;
  if (max == kMinusInfinity) return;
  Lanes sum = {};
  for (int64_t i = 0; i < padded; i += kLanes) sum += exp_lanes(load_lanes(logits + i) - max);
  partial[1] = sum_lanes(sum);
}

}  // namespace restkv::cpu
