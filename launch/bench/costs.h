// What a prefill and a decode step have to compute and to move at least: the numerators of TFLOP/s and TB/s.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace restkv {

/// Floating-point operations of a prefill of L tokens, over all ranks. A product and a sum are two.
struct PrefillCost {
  double linear = 0.0;     ///< 2 L layers (H d (2 Hq + 2 Hkv) + 3 H I): q, k, v, o, gate, up, down
  double attention = 0.0;  ///< 4 d Hq layers L (L + 1) / 2: q.k and p v, each visible (query, key) pair once
  double head = 0.0;       ///< 2 H vocab: the logits of the last position
  double total() const { return linear + attention + head; }
};
PrefillCost prefill_cost(const ModelConfig& model, int64_t L);

/// One decode step of `batch` sequences whose K/V rows hold `kv_bytes` bytes together, over all ranks.
struct DecodeCost {
  double flops = 0.0;  ///< 2 batch (weights of layers and output head), and 4 d Hq / Hkv-shared rows for attention
  double bytes = 0.0;  ///< layers' and output head's weights once, every K and V row once
};

/// `weight_bytes`: of all weights that a step reads (without the embedding table, of which it reads a row).
/// `rows`: K/V rows of all sequences, layers and cache heads; `queries_per_row`: query heads that read each row.
DecodeCost decode_cost(const ModelConfig& model, int64_t batch, double weight_bytes, double rows,
                       double queries_per_row, double kv_bytes);

}  // namespace restkv
