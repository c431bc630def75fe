// The elements of random weights, on the CPU and on GPUs with the same bits. RandomSource says which tensor has which.
#pragma once

#include <cstdint>

#include "dist/base/context.h"
#include "dist/comm/partition.h"

namespace restkv {

/// Rows x cols of a tensor whose element (r, c) is center + half_width * u, rounded to bf16 whatever dtype holds it.
/// u is uniform in [-1, 1): the upper 53 bits of mix64(key + r * width + c) (dist/base/mix.h), rounded to float.
struct RandomElements {
  uint64_t key = 0;   ///< of (seed, tensor name)
  int64_t width = 0;  ///< columns of the whole tensor
  Range rows, cols;   ///< the slice
  float center = 0.0f;
  float half_width = 1.0f;
};

/// Fills out [rows, cols] (f32 or bf16, dense, on the context's device; any shape of that many elements). On GPUs in
/// stream order.
void random_fill(Context& ctx, const RandomElements& elements, const Tensor& out);

/// The same into host memory, on the calling thread.
void random_rows(const RandomElements& elements, DType dtype, void* dst);

namespace gpu {
void random_fill(Context& ctx, const RandomElements& elements, DType dtype, void* out);
}

}  // namespace restkv
