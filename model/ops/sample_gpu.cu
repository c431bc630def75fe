// Sampling by exact selection. Eight blocks (a cluster) hold a sequence's logits in shared memory, as ordered integers.
// Top-k and top-p find the smallest kept key by its digits, from histograms of counts or weights that are added up over
// the cluster; among equals the lowest ids are kept. The draw walks the kept tokens by ascending id.
#include <cooperative_groups.h>

#include <climits>

#include "dist/base/gpu_launch.h"
#include "model/ops/sample.h"
#include "model/sample_weight.h"

namespace restkv::gpu {
namespace {

namespace cg = cooperative_groups;

constexpr int kBlocks = 8;  // of a cluster
constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kSlice = kBins / kBlocks;  // bins that one block adds up for all
// A weight is at most 2^40, a block has at most 2^15 tokens: three digits of 14 bits add up in 32 bits each, which
// shared memory adds natively.
constexpr int kParts = 3;
constexpr int kPartBits = 14;
static_assert(kMaxSampleVocab / kBlocks <= 1 << 15);

struct Shared {
  uint32_t histogram[kParts][kBins];
  uint64_t slice[kSlice];         // this block's bins, added up over the cluster
  uint64_t exchange[2][kBlocks];  // one word of every block
  uint64_t warp[kWarps];
  uint64_t above, bin;  // what find_digit() found
  uint32_t digit;
  int32_t found;
};

// The kept tokens: keys above `key`, and those equal to it with ids up to `last_id`.
struct Kept {
  uint32_t key = 0;
  int32_t last_id = INT_MAX;
  __device__ bool holds(uint32_t k, int32_t id) const { return k > key || (k == key && id <= last_id); }
};

// One sequence's part in this block: keys of ids [first, first + count).
struct Part {
  Shared* shared;
  const uint32_t* keys;
  int32_t first, count;
  int parity;  // of the next exchange
};

__device__ inline uint64_t warp_total(uint64_t x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

__device__ inline uint64_t warp_scan(uint64_t x) {  // inclusive
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    uint64_t below = __shfl_up_sync(0xffffffffu, x, offset);
    if (lane >= offset) x += below;
  }
  return x;
}

// Every block's word, in shared.exchange[...] of all blocks; `word` is that of thread 0 to 7 (the same).
__device__ inline const uint64_t* exchange(Part& part, uint64_t word) {
  cg::cluster_group cluster = cg::this_cluster();
  uint64_t* slots = part.shared->exchange[part.parity];
  part.parity ^= 1;
  if (threadIdx.x < kBlocks) cluster.map_shared_rank(slots, threadIdx.x)[cluster.block_rank()] = word;
  cluster.sync();
  return slots;
}

// The highest key and the lowest id that has it.
__device__ inline void find_highest(Part& part, uint64_t mine, uint32_t* key, int32_t* id) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    uint64_t other = __shfl_xor_sync(0xffffffffu, mine, offset);
    mine = other > mine ? other : mine;
  }
  uint64_t* warp = part.shared->warp;
  if (threadIdx.x % 32 == 0) warp[threadIdx.x / 32] = mine;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) mine = warp[w] > mine ? warp[w] : mine;
  const uint64_t* all = exchange(part, mine);
  for (int r = 0; r < kBlocks; ++r) mine = all[r] > mine ? all[r] : mine;
  *key = static_cast<uint32_t>(mine >> 32);
  *id = static_cast<int32_t>(~static_cast<uint32_t>(mine));
}

// Sum of weight(key, id) over each warp's contiguous run of ids, to shared.warp; returns the block's sum.
template <class Weight>
__device__ uint64_t sum_runs(const Part& part, int run, Weight weight) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint64_t sum = 0;
  for (int i = warp * run + lane, end = min((warp + 1) * run, part.count); i < end; i += 32)
    sum += weight(part.keys[i], part.first + i);
  sum = warp_total(sum);
  __syncthreads();  // of the last use of shared.warp
  if (lane == 0) part.shared->warp[warp] = sum;
  __syncthreads();
  uint64_t total = 0;
  for (int w = 0; w < kWarps; ++w) total += part.shared->warp[w];
  return total;
}

__device__ inline int run_of(const Part& part) { return (part.count + kThreads - 1) / kThreads * 32; }

template <class Weight>
__device__ uint64_t sum_all(Part& part, Weight weight) {
  const uint64_t* all = exchange(part, sum_runs(part, run_of(part), weight));
  uint64_t total = 0;
  for (int r = 0; r < kBlocks; ++r) total += all[r];
  return total;
}

// The lowest id at which the sum of weights, by ascending id, exceeds `target`. Precondition: the total does.
template <class Weight>
__device__ int32_t find_in_order(Part& part, uint64_t target, Weight weight) {
  cg::cluster_group cluster = cg::this_cluster();
  const int run = run_of(part), me = static_cast<int>(cluster.block_rank());
  const uint64_t* all = exchange(part, sum_runs(part, run, weight));
  uint64_t passed = 0;
  int owner = 0;
  while (owner < kBlocks - 1 && passed + all[owner] <= target) passed += all[owner++];
  if (owner == me) {
    const uint64_t* sums = part.shared->warp;
    int warp = 0;
    while (warp < kWarps - 1 && passed + sums[warp] <= target) passed += sums[warp++];
    if (static_cast<int>(threadIdx.x) / 32 == warp) {
      const int lane = threadIdx.x % 32;
      for (int i = warp * run; i < (warp + 1) * run; i += 32) {
        bool inside = i + lane < part.count;
        uint64_t reached = passed + warp_scan(inside ? weight(part.keys[i + lane], part.first + i + lane) : 0);
        uint32_t beyond = __ballot_sync(0xffffffffu, reached > target);
        if (beyond != 0) {
          int32_t id = part.first + i + __ffs(static_cast<int>(beyond)) - 1;
          if (lane < kBlocks) *cluster.map_shared_rank(&part.shared->found, lane) = id;
          break;
        }
        passed = __shfl_sync(0xffffffffu, reached, 31);
      }
    }
  }
  cluster.sync();
  return part.shared->found;
}

// From the cluster's sums of all bins: the highest digit at which the sum from above reaches `goal`.
__device__ void find_digit(Part& part, int bins, uint64_t goal) {
  cg::cluster_group cluster = cg::this_cluster();
  Shared& s = *part.shared;
  uint64_t mine[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    int bin = kBins - 1 - (2 * static_cast<int>(threadIdx.x) + j);
    mine[j] = bin < bins ? cluster.map_shared_rank(s.slice, bin / kSlice)[bin % kSlice] : 0;
  }
  uint64_t reached = warp_scan(mine[0] + mine[1]);
  if (threadIdx.x % 32 == 31) s.warp[threadIdx.x / 32] = reached;
  __syncthreads();
  for (int w = 0; w < static_cast<int>(threadIdx.x) / 32; ++w) reached += s.warp[w];
  uint64_t before = reached - mine[0] - mine[1];
  if (before < goal && reached >= goal) {
    int j = before + mine[0] >= goal ? 0 : 1;
    s.digit = static_cast<uint32_t>(kBins - 1 - (2 * static_cast<int>(threadIdx.x) + j));
    s.above = j == 0 ? before : before + mine[0];
    s.bin = mine[j];
  }
  __syncthreads();
}

// Adds up weight(key, id) of the keys that begin with `prefix`, by their next digit, over the cluster, to slices.
template <class Weight>
__device__ void count_digits(Part& part, int shift, int bits, uint32_t prefix, int parts, Weight weight) {
  cg::cluster_group cluster = cg::this_cluster();
  Shared& s = *part.shared;
  for (int i = threadIdx.x; i < kParts * kBins; i += kThreads) s.histogram[0][i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < part.count; i += kThreads) {
    uint32_t key = part.keys[i];
    if (shift + bits < 32 && key >> (shift + bits) != prefix) continue;
    uint64_t w = weight(key, part.first + i);
    uint32_t bin = (key >> shift) & ((1u << bits) - 1);
    for (int j = 0; j < parts; ++j) {
      auto digit = static_cast<uint32_t>(w >> (j * kPartBits)) & ((1u << kPartBits) - 1);
      if (digit != 0) atomicAdd(&s.histogram[j][bin], digit);
    }
  }
  cluster.sync();
  if (threadIdx.x < kSlice) {
    uint32_t bin = cluster.block_rank() * kSlice + threadIdx.x;
    uint64_t sum = 0;
    for (int r = 0; r < kBlocks; ++r) {
      const Shared* other = cluster.map_shared_rank(&s, r);
      for (int j = 0; j < parts; ++j) sum += static_cast<uint64_t>(other->histogram[j][bin]) << (j * kPartBits);
    }
    s.slice[threadIdx.x] = sum;
  }
  cluster.sync();
}

// Narrows `kept` to the shortest run of the likeliest of its tokens whose weights reach `goal`; returns their sum.
// unit(key) is the weight of a kept token, `parts` how many digits of kPartBits it has. Precondition: the kept tokens
// reach the goal, which is at least 1.
template <class Unit>
__device__ uint64_t narrow(Part& part, Kept& kept, uint64_t goal, int parts, Unit unit) {
  auto weight = [&](uint32_t key, int32_t id) { return kept.holds(key, id) ? unit(key) : uint64_t{0}; };
  uint32_t prefix = 0;
  uint64_t above = 0;
  int shift = 32;
  for (int bits : {11, 11, 10}) {
    shift -= bits;
    count_digits(part, shift, bits, prefix, parts, weight);
    find_digit(part, 1 << bits, goal - above);
    prefix = prefix << bits | part.shared->digit;
    above += part.shared->above;
  }
  uint64_t equals = part.shared->bin, each = unit(prefix), needed = (goal - above + each - 1) / each;
  int32_t last_id = prefix == kept.key ? kept.last_id : INT_MAX;
  if (needed * each < equals)
    last_id = find_in_order(part, needed - 1, [&](uint32_t key, int32_t id) {
      return static_cast<uint64_t>(key == prefix && kept.holds(key, id));
    });
  kept = {prefix, last_id};
  return above + needed * each;
}

__device__ int32_t draw(Part& part, const SequenceSampling& how, int64_t vocab, uint32_t top_key, int32_t top_id,
                        uint64_t step) {
  const float highest = key_logit(top_key);
  const double scale = log2_scale(how.temperature);
  auto unit = [&](uint32_t key) { return sample_weight(key_logit(key), highest, scale); };
  Kept kept;
  if (how.top_k > 0 && how.top_k < vocab)
    narrow(part, kept, static_cast<uint64_t>(how.top_k), 1, [](uint32_t) { return uint64_t{1}; });
  auto weight = [&](uint32_t key, int32_t id) { return kept.holds(key, id) ? unit(key) : uint64_t{0}; };
  uint64_t total = sum_all(part, weight);
  if (total == 0) return top_id;
  uint64_t goal = nucleus_goal(how.top_p, total);
  uint64_t reached = goal < total ? narrow(part, kept, goal, kParts, unit) : total;
  return find_in_order(part, draw_below(reached, how.key, step), weight);
}

// Fills part.keys; returns this thread's highest key and, in the lower word, the complement of its lowest id.
__device__ uint64_t load_keys(const Part& part, uint32_t* keys, const float* logits) {
  constexpr int kLoads = 8;
  uint64_t best = 0;
  for (int base = threadIdx.x; base < part.count; base += kLoads * kThreads) {
    float x[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      int i = base + j * kThreads;
      x[j] = i < part.count ? __ldcg(logits + i) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      int i = base + j * kThreads;
      if (i >= part.count) break;
      uint32_t key = logit_key(x[j]);
      keys[i] = key;
      uint64_t entry = static_cast<uint64_t>(key) << 32 | ~static_cast<uint32_t>(part.first + i);
      best = entry > best ? entry : best;
    }
  }
  return best;
}

__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads) sample_kernel(SampleBatch args) {
  extern __shared__ uint32_t keys[];
  __shared__ Shared shared;
  cg::cluster_group cluster = cg::this_cluster();
  cluster.barrier_arrive();
  let_next_start();
  wait_for_previous();
  const int64_t b = blockIdx.y;
  const int32_t vocab = static_cast<int32_t>(args.vocab), chunk = (vocab + kBlocks - 1) / kBlocks;
  const int32_t first = min(static_cast<int32_t>(cluster.block_rank()) * chunk, vocab);
  Part part{&shared, keys, first, min(chunk, vocab - first), 0};
  const SequenceSampling how = args.sampling[b];
  uint64_t best = load_keys(part, keys, args.logits + b * args.vocab + first);
  cluster.barrier_wait();  // all blocks run: their shared memory may be written
  uint32_t top_key = 0;
  int32_t token = 0;
  find_highest(part, best, &top_key, &token);
  if (how.temperature != 0.0) token = draw(part, how, args.vocab, top_key, token, static_cast<uint64_t>(args.step[b]));
  if (cluster.block_rank() == 0 && threadIdx.x == 0) args.token[b] = token;
  cluster.sync();  // no block ends while another may still read its shared memory
}

}  // namespace

void sample_batch(Context& ctx, const SampleBatch& args) {
  size_t bytes = static_cast<size_t>((args.vocab + kBlocks - 1) / kBlocks) * sizeof(uint32_t);
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(kMaxSampleVocab / kBlocks * sizeof(uint32_t))));
  launch_dependent(sample_kernel, dim3(kBlocks, static_cast<unsigned>(args.batch)), dim3(kThreads), bytes,
                   stream_of(ctx), args);
}

}  // namespace restkv::gpu
