#include "launch/bench/costs.h"

namespace restkv {
namespace {

/// Elements of the matrices of all layers.
double layer_elements(const ModelConfig& m) {
  auto H = static_cast<double>(m.hidden);
  double attention = H * static_cast<double>(m.d) * 2.0 * static_cast<double>(m.Hq + m.Hkv);
  return static_cast<double>(m.layers) * (attention + 3.0 * H * static_cast<double>(m.intermediate));
}

}  // namespace

PrefillCost prefill_cost(const ModelConfig& m, int64_t tokens) {
  auto L = static_cast<double>(tokens);
  PrefillCost cost;
  cost.linear = 2.0 * L * layer_elements(m);
  cost.attention = 4.0 * static_cast<double>(m.d * m.Hq * m.layers) * L * (L + 1.0) / 2.0;
  cost.head = 2.0 * static_cast<double>(m.hidden) * static_cast<double>(m.vocab);
  return cost;
}

DecodeCost decode_cost(const ModelConfig& m, int64_t batch, double weight_bytes, double rows, double queries_per_row,
                       double kv_bytes) {
  double weights = layer_elements(m) + static_cast<double>(m.hidden) * static_cast<double>(m.vocab);
  DecodeCost cost;
  cost.flops = 2.0 * static_cast<double>(batch) * weights + 4.0 * static_cast<double>(m.d) * queries_per_row * rows;
  cost.bytes = weight_bytes + kv_bytes;
  return cost;
}

}  // namespace restkv
