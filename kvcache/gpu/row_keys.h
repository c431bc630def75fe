// order_key() of radix_select.h for kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace restkv::gpu {

__device__ inline uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  const uint32_t flip = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u;
  return value != value ? 0u : bits ^ flip;
}

}  // namespace restkv::gpu
