// Searches in lists of positions. For kernels, *_gpu.cu alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace restkv::gpu {

/// How many of the `length` ascending positions are below `position`.
template <class Index>
__device__ Index count_below(const int32_t* positions, Index length, int32_t position) {
  Index low = 0, high = length;
  while (low < high) {
    const Index middle = low + (high - low) / 2;
    if (positions[middle] < position)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace restkv::gpu
