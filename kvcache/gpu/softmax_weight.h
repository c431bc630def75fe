// Attention weights from stored logits, and their reduction over the window rows: the GPU form of
// cpu/softmax_lanes.h and cpu/row_reduction.h.
#pragma once

#include <cuda_runtime.h>

#include "kvcache/scores/reconstruction.h"
#include "kvcache/statistics/window_attention.h"

namespace restkv::gpu {

/// exp of a difference from the maximum, in a third of the instructions of expf. The relative error is below
/// 3e-7 + 8e-8 |x|: where it exceeds that of f32 the weight is too small to matter.
__device__ inline float exp_term(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
}

/// exp(logit - max) / sum with row = (max, 1 / sum). Zero for masked logits, for a row with nothing to attend, and
/// below exp(-87), as on the CPU: what ties there must tie here.
__device__ inline float softmax_weight(float logit, float2 row) {
  const float x = logit - row.x;
  return row.y > 0.0f && x >= -87.0f ? exp_term(x) * row.y : 0.0f;
}

/// a / (1 - a), large but finite where one position takes all attention.
__device__ inline float odds(float a) { return a / fmaxf(1.0f - a, kSmallestRest); }

/// Rows are fed in the order of row_order(), w counts them.
class RowReducer {
 public:
  RowReducer(RowReduction kind, double alpha, int64_t rows)
      : newer_(averages(kind) ? static_cast<float>(alpha) : 1.0f),
        older_(averages(kind) ? static_cast<float>(1.0 - alpha) : 1.0f),
        divisor_(kind == RowReduction::mean ? static_cast<float>(rows) : 1.0f) {}

  __device__ float add(float state, float x, int w) const { return w == 0 ? x : fmaf(x, newer_, state * older_); }
  __device__ float finish(float state) const { return state / divisor_; }
  /// What row w of all W contributes to the result is so many times its x.
  __device__ float share(int w, int W) const {
    float part = w == 0 ? 1.0f : newer_;
    for (int later = w + 1; later < W; ++later) part *= older_;
    return part / divisor_;
  }

 private:
  static bool averages(RowReduction kind) { return kind == RowReduction::ema || kind == RowReduction::inverse_ema; }

  float newer_, older_, divisor_;
};

}  // namespace restkv::gpu
