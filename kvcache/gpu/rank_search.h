// The search for the k-th largest of many ranks (row_state.h) by one block of threads: radix select over histograms in
// shared memory. For the kernels of the top-k selection.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kvcache/gpu/row_state.h"

namespace restkv::gpu {

// A bin of a histogram that was chosen: how many of its elements are wanted, and how many there are.
struct Choice {
  uint32_t bin, wanted, sharing;
};

// By one warp: the bin, from the largest down, in which the wanted-th element (wanted >= 1) lies. Each lane looks at
// kBins / 32 neighbouring bins.
template <int kBins>
__device__ void choose_bin(const uint32_t* histogram, uint32_t wanted, Choice* choice) {
  constexpr int kVectors = kBins / 32 / 4;
  const int lane = static_cast<int>(threadIdx.x % 32);
  // Lane 0 has the largest bins.
  const uint4* mine = reinterpret_cast<const uint4*>(histogram) + (31 - lane) * kVectors;
  uint32_t count = 0;
#pragma unroll 4
  for (int i = 0; i < kVectors; ++i) {
    const uint4 four = mine[i];
    count += four.x + four.y + four.z + four.w;
  }
  uint32_t upto = count;
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t left = __shfl_up_sync(0xffffffffu, upto, step);
    if (lane >= step) upto += left;
  }
  uint32_t passed = upto - count;
  if (passed >= wanted || upto < wanted) return;
  int vector = kVectors - 1;
  uint4 four = mine[vector];
  for (; passed + four.x + four.y + four.z + four.w < wanted; four = mine[--vector])
    passed += four.x + four.y + four.z + four.w;
  const uint32_t counts[4] = {four.x, four.y, four.z, four.w};
  bool found = false;
#pragma unroll
  for (int i = 3; i >= 0; --i) {
    if (!found && passed + counts[i] >= wanted) {
      *choice = {static_cast<uint32_t>(((31 - lane) * kVectors + vector) * 4 + i), wanted - passed, counts[i]};
      found = true;
    }
    passed += counts[i];
  }
}

// The ranks that share their upper bits with the wanted one: `known` upper bits are `prefix`.
struct Prefix {
  uint64_t prefix = 0;
  int known = 0;
  __device__ bool holds(uint64_t rank) const { return known == 0 || rank >> (64 - known) == prefix; }
};

// kBins bins of the next digit of all ranks that hold the prefix; then the prefix is a digit longer. By all threads.
template <int kBins, class Each>
__device__ Choice next_digit(uint32_t* histogram, Choice* shared, Prefix& prefix, uint32_t wanted, int bits,
                             Each each) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += static_cast<int>(blockDim.x)) histogram[bin] = 0;
  __syncthreads();
  const int shift = 64 - prefix.known - bits;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  each([&](uint64_t rank) {
    if (prefix.holds(rank)) atomicAdd(&histogram[rank >> shift & mask], 1u);
  });
  __syncthreads();
  if (threadIdx.x < 32) choose_bin<kBins>(histogram, wanted, shared);
  __syncthreads();
  prefix.prefix = prefix.prefix << bits | shared->bin;
  prefix.known += bits;
  return *shared;
}

// The cut when all 32 bits of the key are known, and there is no tie or all bits of the position are known too.
__device__ inline SelectCut cut_behind(const Prefix& prefix) {
  if (prefix.known == 32) return {static_cast<uint32_t>(prefix.prefix), 0xffffffffu};
  return {key_in(prefix.prefix), position_in(prefix.prefix) + 1};
}

inline constexpr int kListBits = 8;

// The rest of the search among the ranks of a list, of which the wanted-th largest is wanted.
template <class Each>
__device__ SelectCut find_in_list(uint32_t* histogram, Choice* shared, uint32_t wanted, Each each, bool& tied) {
  Prefix prefix;
  tied = false;
  while (prefix.known < 64) {
    const Choice choice = next_digit<1 << kListBits>(histogram, shared, prefix, wanted, kListBits, each);
    wanted = choice.wanted;
    if (prefix.known == 32) {
      if (wanted == choice.sharing) break;
      tied = true;
    }
  }
  return cut_behind(prefix);
}

__device__ inline void write(const RowResults& results, int64_t row, const SelectCut& cut, bool tied) {
  if (threadIdx.x != 0) return;
  results.cuts[row] = cut;
  results.tied[row] = tied ? 1 : 0;
}

// The sum of the positions that the cut takes from each(), added to *sum (in shared memory).
template <class Each>
__device__ void add_positions(const SelectCut& cut, Each each, unsigned long long* sum) {
  unsigned long long mine = 0;
  each([&](uint64_t rank) {
    if (cut.takes(key_in(rank), position_in(rank))) mine += position_in(rank);
  });
  for (int offset = 16; offset > 0; offset /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, offset);
  if (threadIdx.x % 32 == 0 && mine != 0) atomicAdd(sum, mine);
}

// The ranks that the cut takes from each(), in no order. *taken (in shared memory) starts at 0.
template <class Each>
__device__ void list_taken(const SelectCut& cut, Each each, uint64_t* list, uint32_t* taken) {
  each([&](uint64_t rank) {
    if (cut.takes(key_in(rank), position_in(rank))) list[atomicAdd(taken, 1u)] = rank;
  });
}

inline constexpr int kListThreads = 256;
inline constexpr int kPerThread = kCandidates / kListThreads;  // of a list in registers

inline constexpr int kRestThreads = 1024;
inline constexpr int kRestBits = 12;

struct RestShared {
  union {  // the histogram is done with when the list is filled
    uint64_t list[kCandidates];
    uint32_t wide[1 << kRestBits];
  };
  uint32_t histogram[1 << kListBits];
  Choice choice;
  uint32_t listed, taken;
  unsigned long long sum;
};

// Passes over a whole row, until so few ranks share the prefix that they fit a list.
template <class Each>
__device__ SelectCut find_in_row(RestShared& s, uint32_t wanted, Each each, bool& tied) {
  Prefix prefix;
  tied = false;
  while (prefix.known < 64) {
    // Digits end at the last bit of the key, so that ties are seen there.
    const int left = prefix.known < 32 ? 32 - prefix.known : 64 - prefix.known;
    const Choice choice =
        next_digit<1 << kRestBits>(s.wide, &s.choice, prefix, wanted, left < kRestBits ? left : kRestBits, each);
    wanted = choice.wanted;
    if (prefix.known == 32) {
      if (wanted == choice.sharing) return cut_behind(prefix);
      tied = true;
    }
    // A list of all that share the key, or a part of it, shows a tie again; a list of some of the ties would not.
    if (choice.sharing > kCandidates || prefix.known > 32) continue;
    if (threadIdx.x == 0) s.listed = 0;
    __syncthreads();
    each([&](uint64_t rank) {
      if (prefix.holds(rank)) s.list[atomicAdd(&s.listed, 1u)] = rank;
    });
    __syncthreads();
    auto in_list = [&](auto&& body) {
      for (uint32_t i = threadIdx.x; i < choice.sharing; i += kRestThreads) body(s.list[i]);
    };
    return find_in_list(s.histogram, &s.choice, wanted, in_list, tied);
  }
  return cut_behind(prefix);
}

}  // namespace restkv::gpu
