// The weights of one rank, in memory.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "dist/base/gemm.h"
#include "model/shard_plan.h"
#include "model/weights/weight_source.h"

namespace restkv {

struct LayerWeights {
  Tensor attention_norm;                          ///< [H] f32, as all norms with FamilyTraits::norm_offset added
  Tensor qkv;                                     ///< [(Hq_lc + 2 Hkv_lc) d, H]: query rows, key rows, value rows
  Tensor qkv_bias;                                ///< [(Hq_lc + 2 Hkv_lc) d] f32, or undefined in families without
  Tensor output;                                  ///< [H, Hq_lc d]
  Tensor mlp_norm;                                ///< [H] f32
  Tensor attention_output_norm, mlp_output_norm;  ///< [H] f32, of what they add to x; empty in families without
  Tensor gate_up;                                 ///< [2 I_lc, H]: gate rows, up rows
  Tensor down;                                    ///< [H, I_lc]
  Tensor output_factors;  ///< [Hq_lc, d, d] f32 (kvcache/output_factors.h), or undefined when no policy needs them
};

struct TransformerWeights {
  Tensor embedding;    ///< [vocab_lc, H]
  Tensor output_head;  ///< [vocab_lc, H]; shares the memory of `embedding` when tied
  Tensor final_norm;   ///< [H] f32
  std::vector<LayerWeights> layers;

  int64_t bytes() const;  ///< without the output factors
};

/// Called after each tensor group with the weights' bytes read so far and in all (on this rank).
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

/// Reads this rank's shard. `dtype`: how matrices are held (f32 or bf16); by default each as it loses nothing.
/// Throws InputError when a tensor is missing or its shape does not fit the configuration.
TransformerWeights load_weights(Context& ctx, const WeightSource& source, const ModelConfig& config, const Shard& shard,
                                std::optional<DType> dtype, bool with_output_factors, const LoadProgress& progress);

}  // namespace restkv
