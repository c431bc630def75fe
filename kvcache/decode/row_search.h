// How one block finds the cut through a head's keys and lists the rows that stay. For the kernels of eviction while
// decoding, *_gpu.cu alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kvcache/gpu/rank_search.h"

namespace restkv::gpu {

inline constexpr int kCutThreads = 256;
inline constexpr int kCutWarps = kCutThreads / 32;

// How many of the threads before this one have the flag, and how many there are. By all threads.
__device__ inline int rank_in_block(bool flag, int* in_warp, int& total) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t bits = __ballot_sync(0xffffffffu, flag);
  if (lane == 0) in_warp[warp] = __popc(bits);
  __syncthreads();
  int before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < kCutWarps; ++w) {
    if (w < warp) before += in_warp[w];
    total += in_warp[w];
  }
  __syncthreads();
  return before + __popc(bits & ((1u << lane) - 1));
}

// The cut through the keys of a head's rows before the window: those with `known` upper bits above `prefix` stay, and
// of those equal to it the first `wanted`.
struct KeyCut {
  uint64_t prefix;
  int known;
  uint32_t wanted;
  bool all_equal;  // stay

  __device__ bool above(uint64_t key) const { return key >> (64 - known) > prefix; }
  __device__ bool equal(uint64_t key) const { return key >> (64 - known) == prefix; }
};

struct CutShared {
  __align__(16) uint32_t histogram[1 << kListBits];
  Choice choice;
  int in_warp[kCutWarps];
};

// The k largest of the keys that each(body) calls body with, of which there are at least k.
template <class Each>
__device__ KeyCut find_key_cut(CutShared& s, uint32_t k, Each each) {
  if (k == 0) return {~uint64_t{0}, 64, 0, false};  // none
  Prefix prefix;
  KeyCut cut{0, 0, k, false};
  while (prefix.known < 64 && !cut.all_equal) {
    const Choice choice = next_digit<1 << kListBits>(s.histogram, &s.choice, prefix, cut.wanted, kListBits, each);
    cut.wanted = choice.wanted;
    cut.all_equal = choice.wanted == choice.sharing;
  }
  cut.prefix = prefix.prefix;
  cut.known = prefix.known;
  return cut;
}

}  // namespace restkv::gpu
