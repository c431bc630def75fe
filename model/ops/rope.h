// Rotary position embedding (Su et al., 2021) in the half-rotation form of Hugging Face: element i is paired with
// i + d/2, both turned by position * inv_freq[i].
#pragma once

#include <vector>

#include "dist/base/gemm.h"
#include "model/config.h"

namespace restkv {

/// [d/2] inverse frequencies theta^(-2i/d) after the model's scaling: "llama3" (Llama-3.1, section "RoPE scaling" of
/// its reference implementation), "linear", "yarn" (Peng et al., 2023), "dynamic" (the base grows with the `length` of
/// the sequence once that exceeds the original positions), or per-frequency factors stored with the weights.
std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t d, int64_t length = 0);

/// `factor` times cos and sin of the angles of n positions: table [n, 2, d/2] (cos row, then sin row). Angles are
/// float32 products, as in the reference. `factor`: RopeConfig::attention_factor.
Tensor rope_table(Context& ctx, const std::vector<float>& frequencies, const std::vector<int64_t>& positions,
                  double factor = 1.0);

/// The same into the first rows of `table` [at least n, 2, d/2], from frequencies f32 [d/2] and positions i64 [n] on
/// the context's device: in stream order on GPUs.
void fill_rope_table(Context& ctx, const Tensor& frequencies, const Tensor& positions, double factor,
                     const Tensor& table);

/// Turns the heads of every row in place. x [n, heads * d]; table [at least n, 2, d/2].
void apply_rope(Context& ctx, const MatrixView& x, int64_t d, const Tensor& table);

namespace cpu {
void apply_rope(Context& ctx, const MatrixView& x, int64_t d, const float* table);
}

namespace gpu {
/// frequencies [half], positions [n] on the device -> table [n, 2, half].
void rope_table(Context& ctx, const float* frequencies, const int64_t* positions, int64_t n, int64_t half, float factor,
                float* table);
/// The GPU version: bf16, in stream order; rows are multiples of 8 elements.
void apply_rope(Context& ctx, const MatrixView& x, int64_t d, const float* table);
}  // namespace gpu

}  // namespace restkv
