// Integer mixing for counter-based random numbers and order-free hashes: a value depends on its key alone, never on
// the layout or on what was drawn before.
#pragma once

#include <cstdint>

/// For functions that kernels call as well.
#ifdef __CUDACC__
#define RESTKV_HOST_DEVICE __host__ __device__
#else
#define RESTKV_HOST_DEVICE
#endif

namespace restkv {

/// A bijection of 64-bit words in which every input bit changes about half of the output bits (the finaliser of
/// SplitMix64, Steele, Lea and Flood 2014).
RESTKV_HOST_DEVICE constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// [0, 1) from the upper 53 bits.
RESTKV_HOST_DEVICE constexpr double unit_interval(uint64_t x) { return static_cast<double>(x >> 11) * 0x1p-53; }

}  // namespace restkv
