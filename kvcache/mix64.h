// A 64-bit mixing function (the finaliser of SplitMix64): every input bit changes about half of the output bits.
#pragma once

#include <cstdint>

namespace restkv {

inline uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace restkv
