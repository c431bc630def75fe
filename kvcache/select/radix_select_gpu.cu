// The exact top-k on a GPU, for one rank: the values are read once, by all multiprocessors, and a row's cut is then
// found among a few thousand candidates in shared memory.
//   1. guess_bounds: a spread sample of each row says between which two values the k-th largest lies, very likely.
//   2. gather_candidates: counts (and sums the positions of) the values above the upper bound, and lists those between
//      the bounds.
//   3. resolve: when the counts say that the k-th largest is among the listed ones, radix select on them; when not
//      (bounds that missed, too many equal values), radix select on the whole row, by one block.
// Counts decide which way a row goes, so the result is exact whatever the sample was. Rows of at most kCandidates
// values start with step 3.
#include "dist/base/gpu_handles.h"
#include "kvcache/select/radix_pass.h"
#include "kvcache/gpu/row_keys.h"
#include "kvcache/gpu/runs.h"

namespace restkv::gpu {
namespace {

constexpr int kCandidates = 4096;  // per row
constexpr int kSamples = 32;       // per thread of guess_bounds
constexpr int kGatherThreads = 256;
constexpr int kResolveThreads = 512;
constexpr int kDigitBits = 8;
constexpr int kBins = 1 << kDigitBits;
constexpr uint32_t kKeyOfMinusInf = 0x007fffffu;

struct RowState {
  float low, high;              // candidates: not above `high`, and at least `low`
  uint32_t candidates;          // more than kCandidates when they were not all listed
  uint32_t above;               // values above `high`
  unsigned long long position;  // sum of their global positions
};

// The value with this key; what lies below -inf (NaN) counts as -inf.
__device__ float value_of(uint32_t key) {
  if (key <= kKeyOfMinusInf) return -INFINITY;
  return __uint_as_float((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

// Distinct for distinct positions: larger key first, then the lower position.
__device__ uint64_t rank_of(float value, int64_t position) {
  return static_cast<uint64_t>(key_of(value)) << 32 | (0xffffffffu - static_cast<uint32_t>(position));
}

// The samples of one row: sectors of eight neighbours, one somewhere in each of equal strata of the row.
__device__ void load_samples(const float* values, const Runs& runs, uint32_t (&keys)[kSamples]) {
  const int64_t total = runs.total();
  const int strata_log2 = __ffs(static_cast<int>(blockDim.x) * kSamples / 8) - 1;
#pragma unroll
  for (int j = 0; j < kSamples; ++j) {
    const int sample = j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x), stratum = sample / 8;
    const int64_t first = (total * stratum) >> strata_log2, width = ((total * (stratum + 1)) >> strata_log2) - first;
    const uint64_t scatter = static_cast<uint32_t>(stratum) * 2654435769u;
    const int64_t start = first + static_cast<int64_t>((scatter * static_cast<uint64_t>(width - 7)) >> 32);
    keys[j] = key_of(values[runs.local((start & ~int64_t{7}) + sample % 8)]);
  }
}

// One block per row. The number of threads is a power of two; rows have at least eight values per stratum.
__global__ void __launch_bounds__(1024) guess_bounds(const float* values, int64_t stride, Runs runs,
                                                     const uint32_t* k_of_row, uint32_t k_all, RowState* states) {
  __shared__ uint32_t counts[32];
  const int64_t row = blockIdx.x;
  uint32_t keys[kSamples];
  load_samples(values + row * stride, runs, keys);
  if (threadIdx.x < 32) counts[threadIdx.x] = 0;

  // Ranks in the sample between which the k-th largest of the row should lie.
  const int samples = static_cast<int>(blockDim.x) * kSamples;
  const float part = static_cast<float>(samples) / static_cast<float>(runs.total());
  const float middle = static_cast<float>(k_of_row != nullptr ? k_of_row[row] : k_all) * part;
  const float half = 0.35f * kCandidates * part;
  const int low_rank = static_cast<int>(ceilf(middle + half)), high_rank = static_cast<int>(floorf(middle - half));
  const int slack = static_cast<int>(half / 8.0f) + 1;

  uint32_t low = 0, high = 0;
  bool low_done = low_rank > samples, high_done = high_rank < 1;
  __syncthreads();
  // Bit by bit the largest key that at least so many samples reach; near enough is good enough.
  for (int bit = 31; bit >= 0 && !(low_done && high_done); --bit) {
    const uint32_t try_low = low | 1u << bit, try_high = high | 1u << bit;
    uint32_t both = 0;  // two counts of at most 2^15
#pragma unroll
    for (int j = 0; j < kSamples; ++j) both += (keys[j] >= try_low ? 1u : 0u) + (keys[j] >= try_high ? 0x10000u : 0u);
    both = __reduce_add_sync(0xffffffffu, both);
    if (threadIdx.x % 32 == 0) atomicAdd(&counts[bit], both);
    __syncthreads();
    const int reach_low = static_cast<int>(counts[bit] & 0xffffu), reach_high = static_cast<int>(counts[bit] >> 16);
    if (!low_done && reach_low >= low_rank) {
      low = try_low;
      low_done = reach_low <= low_rank + slack;
    }
    if (!high_done && reach_high >= high_rank) {
      high = try_high;
      high_done = reach_high <= high_rank + slack;
    }
  }
  if (threadIdx.x == 0)
    states[row] = {low_rank > samples ? -INFINITY : value_of(low), high_rank < 1 ? INFINITY : value_of(high), 0, 0, 0};
}

struct GatherShared {
  uint64_t list[kCandidates];
  uint32_t count, above, base;
  unsigned long long position;
};

// What one thread saw above the upper bound.
struct Above {
  uint32_t count = 0;
  unsigned long long position = 0;
};

// Sorts N values of one thread, at `position` + offset(i), into above, listed and neither. NaN is neither.
template <int N, class Offset>
__device__ void sort_in(const float (&x)[N], uint32_t position, Offset offset, float low, float high, GatherShared& s,
                        Above& above) {
  uint32_t in = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) in |= (x[i] >= low ? 1u : 0u) << i;
  if (in == 0) return;
  uint32_t listed = in;
#pragma unroll
  for (int i = 0; i < N; ++i)
    if ((in >> i & 1u) != 0 && x[i] > high) {
      listed &= ~(1u << i);
      ++above.count;
      above.position += position + offset(i);
    }
  if (listed == 0) return;
  uint32_t at = atomicAdd(&s.count, static_cast<uint32_t>(__popc(listed)));
#pragma unroll
  for (int i = 0; i < N; ++i)
    if ((listed >> i & 1u) != 0) {
      if (at < kCandidates) s.list[at] = rank_of(x[i], position + offset(i));
      ++at;
    }
}

// Every value of `count` neighbours whose first has the global position `position`.
__device__ void scan_piece(const float* values, int count, uint32_t position, float low, float high, GatherShared& s,
                           Above& above) {
  constexpr int kVectors = 4;
  const int tid = static_cast<int>(threadIdx.x);
  // Scalars up to the first 16-byte boundary, and behind the last.
  const int head = min(count, static_cast<int>((16 - reinterpret_cast<uintptr_t>(values) % 16) % 16 / 4));
  const int vectors = (count - head) / 4, tail = head + 4 * vectors;
  const int edge = tid < head ? tid : tid - head + tail;
  if (edge < count && tid < head + 3) {
    const float x[1] = {values[edge]};
    sort_in(
        x, position + static_cast<uint32_t>(edge), [](int) { return 0u; }, low, high, s, above);
  }
  const float4* body = reinterpret_cast<const float4*>(values + head);
  for (int first = 0; first < vectors; first += kVectors * kGatherThreads) {
    float x[4 * kVectors];
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      const int at = first + u * kGatherThreads + tid;
      const float4 v = at < vectors ? __ldg(body + at) : make_float4(NAN, NAN, NAN, NAN);
      x[4 * u] = v.x, x[4 * u + 1] = v.y, x[4 * u + 2] = v.z, x[4 * u + 3] = v.w;
    }
    const uint32_t start = position + static_cast<uint32_t>(head + 4 * (first + tid));
    sort_in(
        x, start, [](int i) { return static_cast<uint32_t>(i / 4 * 4 * kGatherThreads + i % 4); }, low, high, s, above);
  }
}

// Block b works on piece b % pieces of row b / pieces.
__global__ void __launch_bounds__(kGatherThreads)
    gather_candidates(const float* values, int64_t stride, Pieces pieces, RowState* states, uint64_t* candidates) {
  __shared__ GatherShared s;
  const int64_t row = blockIdx.x / pieces.count();
  const Piece piece = pieces.at(static_cast<int>(blockIdx.x % pieces.count()));
  const int tid = static_cast<int>(threadIdx.x);
  RowState* state = states + row;
  if (tid == 0) s.count = 0, s.above = 0, s.position = 0;
  const float low = state->low, high = state->high;
  __syncthreads();
  Above above;
  scan_piece(values + row * stride + piece.local, piece.count, static_cast<uint32_t>(piece.global), low, high, s,
             above);
  if (above.count != 0) {
    atomicAdd(&s.above, above.count);
    atomicAdd(&s.position, above.position);
  }
  __syncthreads();
  if (tid == 0) {
    if (s.above != 0) {
      atomicAdd(&state->above, s.above);
      atomicAdd(&state->position, s.position);
    }
    // A piece that lists too many spoils the row, whatever the others list.
    s.base = s.count == 0 ? 0 : atomicAdd(&state->candidates, s.count <= kCandidates ? s.count : kCandidates + 1);
  }
  __syncthreads();
  const uint32_t listed = min(s.count, static_cast<uint32_t>(kCandidates));
  for (uint32_t i = threadIdx.x; i < listed && s.base + i < kCandidates; i += kGatherThreads)
    candidates[row * kCandidates + s.base + i] = s.list[i];
}

struct ResolveShared {
  uint64_t list[kCandidates];
  uint32_t histogram[kBins];
  uint32_t bin, wanted, sharing;
  unsigned long long sum;
};

// By the first warp: the bin, from the largest down, in which the wanted-th element lies.
__device__ void choose_bin(ResolveShared& s, uint32_t wanted) {
  constexpr int kPerLane = kBins / 32;
  const int lane = static_cast<int>(threadIdx.x), top = kBins - 1 - lane * kPerLane;
  uint32_t mine = 0;
  for (int i = 0; i < kPerLane; ++i) mine += s.histogram[top - i];
  uint32_t upto = mine;
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t left = __shfl_up_sync(0xffffffffu, upto, step);
    if (lane >= step) upto += left;
  }
  uint32_t passed = upto - mine;
  if (passed >= wanted || upto < wanted) return;
  int bin = top;
  for (; passed + s.histogram[bin] < wanted; --bin) passed += s.histogram[bin];
  s.bin = static_cast<uint32_t>(bin);
  s.wanted = wanted - passed;
  s.sharing = s.histogram[bin];
}

// The cut behind the wanted-th largest (wanted >= 1) of the ranks that each(body) passes to body, over all threads.
template <class Each>
__device__ SelectCut find_cut(ResolveShared& s, uint32_t wanted, Each each, bool& tied) {
  uint64_t prefix = 0;
  tied = false;
  for (int shift = 64 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kResolveThreads) s.histogram[bin] = 0;
    __syncthreads();
    each([&](uint64_t rank) {
      if (shift == 64 - kDigitBits || rank >> (shift + kDigitBits) == prefix)
        atomicAdd(&s.histogram[rank >> shift & (kBins - 1)], 1u);
    });
    __syncthreads();
    if (threadIdx.x < 32) choose_bin(s, wanted);
    __syncthreads();
    prefix = prefix << kDigitBits | s.bin;
    wanted = s.wanted;
    if (shift == 32) {
      if (wanted == s.sharing) return {static_cast<uint32_t>(prefix), 0xffffffffu};
      tied = true;
    }
  }
  return {static_cast<uint32_t>(prefix >> 32), 0xffffffffu - static_cast<uint32_t>(prefix) + 1};
}

template <class Each>
__device__ void resolve_row(ResolveShared& s, uint32_t wanted, Each each, SelectCut* cut, int32_t* tied_row,
                            bool with_sum) {
  bool tied = false;
  const SelectCut found = find_cut(s, wanted, each, tied);
  if (threadIdx.x == 0) {
    *cut = found;
    *tied_row = tied ? 1 : 0;
  }
  if (!with_sum) return;
  unsigned long long sum = 0;
  each([&](uint64_t rank) {
    const uint32_t key = static_cast<uint32_t>(rank >> 32), position = 0xffffffffu - static_cast<uint32_t>(rank);
    if (found.takes(key, position)) sum += position;
  });
  if (sum != 0) atomicAdd(&s.sum, sum);
}

// One block per row. states and candidates are null for short rows, sums may be null.
__global__ void __launch_bounds__(kResolveThreads)
    resolve(const float* values, int64_t stride, Runs runs, const uint32_t* k_of_row, uint32_t k_all,
            const RowState* states, const uint64_t* candidates, SelectCut* cuts, int32_t* tied, int64_t* sums) {
  __shared__ ResolveShared s;
  const int64_t row = blockIdx.x, total = runs.total();
  const int tid = static_cast<int>(threadIdx.x);
  const float* mine = values + row * stride;
  const uint32_t k = k_of_row != nullptr ? k_of_row[row] : k_all;
  if (k == 0) {  // the cut lies beyond every value
    if (tid == 0) {
      cuts[row] = {0xffffffffu, 0};
      tied[row] = 0;
      if (sums != nullptr) sums[row] = 0;
    }
    return;
  }
  const bool is_short = states == nullptr;
  const RowState state = is_short ? RowState{} : states[row];
  const bool found =
      !is_short && state.candidates <= kCandidates && state.above < k && k <= state.above + state.candidates;
  if (tid == 0) s.sum = found ? state.position : 0;
  if (is_short || found) {
    const int listed = is_short ? static_cast<int>(total) : static_cast<int>(state.candidates);
    for (int i = tid; i < listed; i += kResolveThreads)
      s.list[i] = is_short ? rank_of(mine[runs.local(i)], runs.global(i)) : candidates[row * kCandidates + i];
    __syncthreads();
    auto each = [&](auto&& body) {
      for (int i = tid; i < listed; i += kResolveThreads) body(s.list[i]);
    };
    resolve_row(s, is_short ? k : k - state.above, each, cuts + row, tied + row, sums != nullptr);
  } else {
    auto each = [&](auto&& body) {
      for (int64_t i = tid; i < total; i += kResolveThreads) body(rank_of(mine[runs.local(i)], runs.global(i)));
    };
    resolve_row(s, k, each, cuts + row, tied + row, sums != nullptr);
  }
  __syncthreads();
  if (tid == 0 && sums != nullptr) sums[row] = static_cast<int64_t>(s.sum);
}

// A power of two of threads with which at least one of 32 values is sampled, up to 2^20 values.
int sample_threads(int64_t total) {
  int threads = 128;
  while (threads < 1024 && threads * int64_t{1024} < total) threads *= 2;
  return threads;
}

}  // namespace

void select_top(Context& ctx, const SelectRows& input, const uint32_t* k_of_row, uint32_t k, SelectCut* cuts,
                int32_t* tied, int64_t* sums) {
  if (input.rows == 0) return;
  const Runs runs(*input.segments);
  RESTKV_CHECK(runs.total() == input.total, "{} of {} values are here", runs.total(), input.total);
  const unsigned rows = static_cast<unsigned>(input.rows);
  const cudaStream_t stream = stream_of(ctx);
  Tensor states, candidates;
  RowState* state = nullptr;
  uint64_t* candidate = nullptr;
  if (input.total > kCandidates) {
    states = ctx.empty(DType::u8, {input.rows, static_cast<int64_t>(sizeof(RowState))});
    candidates = ctx.empty(DType::u64, {input.rows, kCandidates});
    state = static_cast<RowState*>(states.raw());
    candidate = candidates.data<uint64_t>();
    guess_bounds<<<rows, sample_threads(input.total), 0, stream>>>(input.values, input.stride, runs, k_of_row, k,
                                                                   state);
    RESTKV_KERNEL_CHECK();
    const Pieces pieces(runs, input.rows * input.total >= (int64_t{1} << 23) ? 16384 : 4096);
    RESTKV_CHECK(input.rows * pieces.count() < INT32_MAX, "{} rows of {} values", input.rows, input.total);
    gather_candidates<<<rows* static_cast<unsigned>(pieces.count()), kGatherThreads, 0, stream>>>(
        input.values, input.stride, pieces, state, candidate);
    RESTKV_KERNEL_CHECK();
  }
  resolve<<<rows, kResolveThreads, 0, stream>>>(input.values, input.stride, runs, k_of_row, k, state, candidate, cuts,
                                                tied, sums);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
