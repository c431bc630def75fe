// The last step of the top-k on a GPU (radix_select_gpu.cu): the exact cut of every row.
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/row_state.h"

namespace restkv::gpu {
namespace {

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
__device__ SelectCut cut_behind(const Prefix& prefix) {
  if (prefix.known == 32) return {static_cast<uint32_t>(prefix.prefix), 0xffffffffu};
  return {key_in(prefix.prefix), position_in(prefix.prefix) + 1};
}

constexpr int kListBits = 8;

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

__device__ void write(const RowResults& results, int64_t row, const SelectCut& cut, bool tied) {
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

constexpr int kListThreads = 256;
constexpr int kPerThread = kCandidates / kListThreads;

// One block per row; rows whose list does not do are left to resolve_rest. The list is in registers.
__global__ void __launch_bounds__(kListThreads, 4)
    resolve_lists(RowValues input, const RowState* states, const uint64_t* candidates, RowResults results) {
  __shared__ __align__(16) uint32_t histogram[1 << kListBits];
  __shared__ Choice choice;
  __shared__ unsigned long long sum;
  const int64_t row = blockIdx.x;
  const int tid = static_cast<int>(threadIdx.x);
  const uint32_t k = input.k(row);
  if (k == 0) {  // the cut lies beyond every value
    write(results, row, {0xffffffffu, 0}, false);
    if (tid == 0 && results.sums != nullptr) results.sums[row] = 0;
    return;
  }
  const bool is_short = states == nullptr;
  const RowState state = is_short ? RowState{} : states[row];
  if (!is_short && !state.lists(k)) return;
  const int listed = is_short ? static_cast<int>(input.runs.total()) : static_cast<int>(state.candidates);
  uint64_t ranks[kPerThread];
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = j * kListThreads + tid;
    if (i < listed)
      ranks[j] = is_short ? rank_of(input.row(row)[input.runs.local(i)], input.runs.global(i))
                          : candidates[row * kCandidates + i];
  }
  auto each = [&](auto&& body) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j)
      if (j * kListThreads + tid < listed) body(ranks[j]);
  };
  if (tid == 0) sum = is_short ? 0 : state.position;
  bool tied = false;
  const SelectCut cut = find_in_list(histogram, &choice, is_short ? k : k - state.above, each, tied);
  write(results, row, cut, tied);
  if (results.sums == nullptr) return;
  add_positions(cut, each, &sum);
  __syncthreads();
  if (tid == 0) results.sums[row] = static_cast<int64_t>(sum);
}

constexpr int kRestThreads = 1024;
constexpr int kRestBits = 12;

struct RestShared {
  union {  // the histogram is done with when the list is filled
    uint64_t list[kCandidates];
    uint32_t wide[1 << kRestBits];
  };
  uint32_t histogram[1 << kListBits];
  Choice choice;
  uint32_t listed;
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

// One block per row whose list did not do. Each thread has several values on their way at a time: there may be few such
// rows, and each has only one multiprocessor to read it.
__global__ void __launch_bounds__(kRestThreads)
    resolve_rest(RowValues input, const RowState* states, RowResults results) {
  __shared__ __align__(16) RestShared s;
  constexpr int kAtOnce = 8;
  const int64_t row = blockIdx.x, total = input.runs.total();
  const uint32_t k = input.k(row);
  if (k == 0 || states[row].lists(k)) return;
  const float* values = input.row(row);
  auto each = [&](auto&& body) {
    for (int64_t first = threadIdx.x; first < total; first += kAtOnce * kRestThreads) {
      float x[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int64_t i = first + j * kRestThreads;
        x[j] = i < total ? __ldg(values + input.runs.local(i)) : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int64_t i = first + j * kRestThreads;
        if (i < total) body(rank_of(x[j], input.runs.global(i)));
      }
    }
  };
  if (threadIdx.x == 0) s.sum = 0;
  bool tied = false;
  const SelectCut cut = find_in_row(s, k, each, tied);
  write(results, row, cut, tied);
  if (results.sums == nullptr) return;
  add_positions(cut, each, &s.sum);
  __syncthreads();
  if (threadIdx.x == 0) results.sums[row] = static_cast<int64_t>(s.sum);
}

}  // namespace

void resolve(cudaStream_t stream, int64_t rows, const RowValues& input, const RowState* states,
             const uint64_t* candidates, const RowResults& results) {
  resolve_lists<<<static_cast<unsigned>(rows), kListThreads, 0, stream>>>(input, states, candidates, results);
  RESTKV_KERNEL_CHECK();
  if (states == nullptr) return;
  resolve_rest<<<static_cast<unsigned>(rows), kRestThreads, 0, stream>>>(input, states, results);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
