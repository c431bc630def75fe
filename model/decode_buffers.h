// What one token holds on its way through the layers of a CPU rank, for decode*.cc alone.
#pragma once

#include <vector>

#include "model/transformer.h"

namespace restkv {

struct Transformer::DecodeBuffers {
  DecodeBuffers(const ModelConfig& config, const Shard& share)
      : x(config.hidden),
        normed(config.hidden),
        partial(config.hidden),
        q(share.heads.Hq_lc() * config.d),
        k(share.heads.Hkv_lc() * config.d),
        v(share.heads.Hkv_lc() * config.d),
        attended((config.d + 1) * share.heads.Hq_lc()),
        gate_up(2 * share.mlp.size()),
        activated(share.mlp.size()) {}

  std::vector<float> x, normed, partial;  // [H]
  std::vector<float> q, k, v;             // [Hq_lc d], [Hkv_lc d]
  std::vector<float> attended;            // [Hq_lc, d] outputs, then [Hq_lc] log-sum-exps
  std::vector<float> gate_up, activated;  // [2 I_lc], [I_lc]
  Tensor rope;                            // [1, 2, d/2]

  // Positions in the cache.
  std::vector<float> plain_q;  // [Hq_lc d] q before its rotation
  std::vector<float> keys;     // [rows of a layer's storage, d] its keys, rotated by their slots
};

}  // namespace restkv
