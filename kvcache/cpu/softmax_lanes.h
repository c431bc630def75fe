// Attention weights from stored logits, one position per lane.
#pragma once

#include "kvcache/cpu/panel.h"

namespace restkv {

/// A softmax row's maximum and the reciprocal of its sum, as fold_softmax writes them.
struct RowSoftmax {
  float max;
  float inverse_sum;
};

/// exp(logit - max) / sum. Zero for masked logits (-inf), and for a row with nothing to attend (max = -inf).
RESTKV_INLINE Lanes softmax_lanes(Lanes logits, RowSoftmax row) {
  Lanes p = exp_lanes(logits - broadcast_lanes(row.max)) * broadcast_lanes(row.inverse_sum);
  return row.inverse_sum > 0.0f ? p : Lanes{};
}

}  // namespace restkv
