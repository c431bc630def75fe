// The products of decode_linear.h for many sequences: as decode_linear_kernel.cuh, whose pieces it uses, and with the
// same bits, but activations are read once by many rows of w instead of again for every two or three tiles.
//
// What a warp of product_kernel does, the chunks of K that are dealt to it, a whole block does here, and eight blocks,
// a cluster, share a group of tiles. So a block needs an eighth of the activations only: they lie in its shared memory,
// for all its warps, and if they fit, for all its groups. (Where they do not, they pass through two halves of that
// memory, phase by phase, again for every group.) A warp has two tiles of the group and all sequences; weights stream
// through rings as before. At the end of a group every block gets one tile's sums from all blocks, through distributed
// shared memory, and adds them up in the blocks' order, which is the order of product_kernel's warps.
#pragma once

#include "model/ops/decode_linear_kernel.cuh"

namespace restkv::gpu::decode {

constexpr int kClusterBlocks = kWarps;
constexpr int kClusterWarps = 4;  // of a block
constexpr int kClusterThreads = 32 * kClusterWarps;
constexpr int kWarpTiles = 2;
constexpr int kGroupTiles = kClusterWarps * kWarpTiles;
static_assert(kGroupTiles == kClusterBlocks, "every block finishes one tile");

// With this much two blocks do not fit on an SM, but one of them beside one with kSharedPerBlock does (each takes 1 KB
// more, and its variables).
constexpr int kClusterAlone = 115600;

/// NT * 8 sequences at once.
template <int NT>
struct ClusterLayout {
  static constexpr int kSlot = 2 * kWarpTiles * kFragmentBytes;  // weights of one step of a warp
  static constexpr int kRound = NT < kFragmentsPerRound ? NT : kFragmentsPerRound;
  static constexpr int kStepBytes = NT * kFragmentBytes;  // activations of one step
  static constexpr int kHalfSteps = NT <= 2 ? 16 : NT <= 4 ? 12 : 8;
  static constexpr int kActivations = 2 * kHalfSteps * kStepBytes;
  static constexpr int kPartial = kClusterBlocks * kRound * kFragmentBytes;
  static constexpr int kSlots = (kSharedPerBlock - kActivations - kPartial) / kClusterWarps / kSlot;
  static constexpr int kRing = kClusterWarps * kSlots * kSlot;
  static constexpr int kShared = kRing + kActivations + kPartial;
  // Activations that are asked for as a phase begins have come when it ends: phases are not shorter than the ring.
  static_assert(kSlots >= 2 && 2 * kHalfSteps / 3 >= kSlots && kRound <= kClusterWarps && NT % kRound == 0);
};

__device__ inline int cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// All threads of all blocks meet. Behind the wait, what was written before cluster_arrive() is visible; of
// cluster_arrive_having_read() only that the values it is given have been read.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ inline void cluster_arrive_having_read(float4 x) {
  asm volatile("barrier.cluster.arrive.relaxed.aligned; // %0 %1 %2 %3" ::"f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w)
               : "memory");
}
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

/// Counts the bytes that other blocks have stored here (an mbarrier in shared memory).
struct Inbox {
  uint32_t at;  // shared address of eight bytes
  uint32_t parity = 0;

  /// By one thread, before the cluster first meets.
  __device__ void open() const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  /// By one thread: what wait() waits for next.
  __device__ void expect(int bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
  }
  /// By all threads.
  __device__ void wait() {
    uint32_t done = 0;
    while (done == 0)
      asm volatile(
          "{\n .reg .pred p;\n mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
          " selp.u32 %0, 1, 0, p;\n}"
          : "=r"(done)
          : "r"(at), "r"(parity)
          : "memory");
    parity ^= 1;
  }
};

// The place in another block's shared memory of what lies at `local` in this one's.
__device__ inline uint32_t remote_address(uint32_t local, int rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
  return remote;
}
// Stores that the inbox of the block counts (both remote addresses of the same block).
__device__ inline void send(uint32_t to, uint32_t inbox, const float (&c)[4]) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
      "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]), "r"(inbox)
      : "memory");
}
__device__ inline void send(uint32_t to, uint32_t inbox, float x) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(to), "f"(x),
               "r"(inbox)
               : "memory");
}

/// This thread's first element of step s: the chunks of K with this block's number modulo kClusterBlocks.
__device__ inline int cluster_k(int s) {
  return (s / 2) * (kClusterBlocks * kChunk) + (s % 2) * kStep + cluster_rank() * kChunk + (threadIdx.x % 4) * 8;
}

/// Where a warp's copies of weights have got to.
template <class Op, int NT>
struct RowFeeder {
  using L = ClusterLayout<NT>;
  const Op& op;
  int k, steps, step = 0, group, stride;
  uint32_t ring;  // this thread's bytes of slot 0, fragment 0
  RowPair rows[kWarpTiles];

  __device__ RowFeeder(const Op& op_, const Activations& in, uint32_t shared) : op(op_), k(in.k), steps(steps_of(k)) {
    group = blockIdx.x / kClusterBlocks;
    stride = gridDim.x / kClusterBlocks;
    ring = shared + (threadIdx.x / 32) * (L::kSlots * L::kSlot) + threadIdx.x % 32 * 16;
    point();
  }

  __device__ void point() {
    int tile = group * kGroupTiles + threadIdx.x / 32 * kWarpTiles;
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) rows[r] = op.rows(tile + r, threadIdx.x % 32 / 4);
  }

  __device__ void copy(int slot) const {
    int at = cluster_k(step);
    uint32_t to = ring + slot * L::kSlot;
    bool inside = at < k;
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) {
      bool low = inside && rows[r].low != nullptr, high = inside && rows[r].high != nullptr;
      copy_weights(to + 2 * r * kFragmentBytes, low ? rows[r].low + at : op.w, low);
      copy_weights(to + (2 * r + 1) * kFragmentBytes, high ? rows[r].high + at : op.w, high);
    }
  }

  __device__ void advance(int groups) {
    if (++step < steps) return;
    step = 0;
    group += stride;
    if (group < groups) point();
  }
};

/// The activations of this block's part of K in shared memory: all of them, or one phase of steps in each half.
template <int NT>
struct SharedActivations {
  using L = ClusterLayout<NT>;
  const Activations& in;
  uint32_t base;
  int steps, phases;
  int phase = 0, half = 0, begin = 0, end;  // of the phase that is read

  __device__ SharedActivations(const Activations& in_, uint32_t base_) : in(in_), base(base_), steps(steps_of(in.k)) {
    phases = steps <= 2 * L::kHalfSteps ? 1 : (steps + L::kHalfSteps - 1) / L::kHalfSteps;
    end = begin_of(1);
  }

  __device__ int begin_of(int p) const { return p * steps / phases; }

  // By all threads of the block. Zeros beyond K and for sequences that are not there.
  __device__ void fetch(int p, int into) const {
    const int lane = threadIdx.x % 32, first = begin_of(p), fragments = (begin_of(p + 1) - first) * NT;
    const uint32_t to = base + into * (L::kHalfSteps * L::kStepBytes) + lane * 16;
    for (int f = threadIdx.x / 32; f < fragments; f += kClusterWarps) {
      int k = cluster_k(first + f / NT), column = f % NT * 8 + lane / 4;
      bool present = k < in.k && column < in.batch;
      copy_activations(to + f * kFragmentBytes, in.data + (present ? column * in.ld + k : 0), present);
    }
  }

  /// At the first step of a phase, behind the wait for its copies: now all threads' copies are there, and nobody reads
  /// the phase before any more. `last`: no group comes after this one.
  __device__ void meet(bool first, bool last) const {
    if (phases == 1 && !first) return;
    __syncthreads();
    int next = phase + 1 == phases ? 0 : phase + 1;
    if (phases > 1 && !(last && next == 0)) fetch(next, half ^ 1);
  }

  __device__ uint32_t at(int s) const {
    return base + half * (L::kHalfSteps * L::kStepBytes) + (s - begin) * L::kStepBytes + threadIdx.x % 32 * 16;
  }

  __device__ void pass(int s) {
    if (s + 1 < end) return;
    phase = phase + 1 == phases ? 0 : phase + 1;
    if (phases > 1) half ^= 1;
    begin = begin_of(phase);
    end = begin_of(phase + 1);
  }
};

// 1 / sqrt(mean(x^2) + eps): each block computes NT of the columns, for all blocks.
template <int NT>
__device__ void send_norm_scales(const Activations& in, const float* scales, uint32_t inbox) {
  const int lane = threadIdx.x % 32;
  for (int i = threadIdx.x / 32; i < NT; i += kClusterWarps) {
    int column = cluster_rank() * NT + i;
    float scale = norm_scale(in, column);
    uint32_t local = static_cast<uint32_t>(__cvta_generic_to_shared(scales + column));
    if (lane < kClusterBlocks) send(remote_address(local, lane), remote_address(inbox, lane), scale);
  }
}

// The sums of a group over the blocks, and the op's own end of the product. Begins where all blocks have read what they
// were sent before (cluster_wait), and unless it is the last group, ends by saying so.
template <class Op, int NT>
__device__ void finish_cluster_group(const Op& op, const Activations& in, const float (&acc)[kWarpTiles][NT][4],
                                     const unsigned char* partial, const float* scales, Inbox& inbox, int group,
                                     bool first_group, bool last_group) {
  using L = ClusterLayout<NT>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank();
  const uint32_t local =
      static_cast<uint32_t>(__cvta_generic_to_shared(partial)) + rank * (L::kRound * kFragmentBytes) + lane * 16;
#pragma unroll
  for (int first = 0; first < NT; first += L::kRound) {
    if (first > 0) cluster_wait();
    const bool scales_too = first_group && first == 0;
    if (threadIdx.x == 0) inbox.expect(L::kPartial + (scales_too ? NT * 8 * static_cast<int>(sizeof(float)) : 0));
    if (scales_too) send_norm_scales<NT>(in, scales, inbox.at);
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) {
      const int owner = warp * kWarpTiles + r;
      const uint32_t to = remote_address(local, owner), counter = remote_address(inbox.at, owner);
#pragma unroll
      for (int f = 0; f < L::kRound; ++f) send(to + f * kFragmentBytes, counter, acc[r][first + f]);
    }
    const int tile = group * kGroupTiles + rank, column = (first + warp) * 8 + lane % 4 * 2;
    const bool mine = warp < L::kRound;
    typename Op::Early early{};
    if (mine) early = op.early(tile, column, lane / 4, in.batch);
    inbox.wait();
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (mine) {
#pragma unroll
      for (int b = 0; b < kClusterBlocks; ++b) {
        float4 part = *reinterpret_cast<const float4*>(partial + (b * L::kRound + warp) * kFragmentBytes + lane * 16);
        sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
      }
    }
    if (!last_group || first + L::kRound < NT) cluster_arrive_having_read(sum);
    if (!mine) continue;
    float s0 = scales[column], s1 = scales[column + 1];
    op.finish(tile, column, lane / 4, in.batch, early, sum.x * s0, sum.z * s0, 0);
    op.finish(tile, column + 1, lane / 4, in.batch, early, sum.y * s1, sum.w * s1, 1);
  }
}

template <class Op, int NT>
__global__ void __launch_bounds__(kClusterThreads, kBlocksPerSm)
    cluster_kernel(const __grid_constant__ Op op, const __grid_constant__ Activations in, int groups) {
  using L = ClusterLayout<NT>;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float scales[NT * 8];
  __shared__ uint64_t counter;
  Inbox inbox{static_cast<uint32_t>(__cvta_generic_to_shared(&counter))};
  if (threadIdx.x == 0) inbox.open();
  __syncwarp();
  cluster_arrive();  // this block is there, and may be sent to
  const uint32_t shared_start = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const unsigned char* partial = shared + L::kRing + L::kActivations;

  RowFeeder<Op, NT> feeder(op, in, shared_start);
  SharedActivations<NT> x(in, shared_start + L::kRing);
  const int own = feeder.group, stride = feeder.stride, rounds = (groups - own + stride - 1) / stride;
  const int total = rounds * feeder.steps;
  int issued = 0;
  for (int s = 0; s < L::kSlots && issued < total; ++s, ++issued) {
    feeder.copy(s);
    feeder.advance(groups);
  }
  wait_for_previous();
  x.fetch(0, 0);
  for (int s = 0; s < L::kSlots; ++s) close_group();
  let_next_start();

  int slot = 0;
  for (int round = 0; round < rounds; ++round) {
    const bool last = round + 1 == rounds;
    float acc[kWarpTiles][NT][4] = {};
    for (int s = 0; s < feeder.steps; ++s) {
      wait_groups<L::kSlots - 1>();
      if (s == x.begin) x.meet(round == 0, last);
      const uint32_t from = feeder.ring + slot * L::kSlot, activations = x.at(s);
      RowFragments a[kWarpTiles];
#pragma unroll
      for (int r = 0; r < kWarpTiles; ++r) a[r] = read_rows(from, r);
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        uint4 b = read_fragment(activations + n * kFragmentBytes);
#pragma unroll
        for (int r = 0; r < kWarpTiles; ++r) multiply(acc[r][n], a[r], b);
      }
      x.pass(s);
      if (issued < total) {
        feeder.copy(slot);
        feeder.advance(groups);
        ++issued;
      }
      close_group();
      slot = slot + 1 == L::kSlots ? 0 : slot + 1;
    }
    cluster_wait();
    finish_cluster_group<Op, NT>(op, in, acc, partial, scales, inbox, own + round * stride, round == 0, last);
  }
}

/// False where the device cannot hold a cluster of this size.
template <int NT, class Op>
bool launch_clusters(Context& ctx, const Op& op, int tiles, const Activations& in) {
  using L = ClusterLayout<NT>;
  auto* kernel = cluster_kernel<Op, NT>;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kClusterAlone));
  // Devices of one process are of one kind.
  static const int places = [&] { return clusters_at_once(kernel, kClusterBlocks, kClusterThreads, L::kShared); }();
  if (places == 0) return false;
  const int groups = (tiles + kGroupTiles - 1) / kGroupTiles;
  // Few blocks must not sit two on an SM while others have none.
  const bool alone = groups * kClusterBlocks <= ctx.gpu()->multiprocessors();
  const dim3 grid(static_cast<unsigned>(std::min(groups, places) * kClusterBlocks));
  launch_dependent_clusters(kernel, kClusterBlocks, grid, dim3(kClusterThreads),
                            static_cast<size_t>(alone ? kClusterAlone : L::kShared), stream_of(ctx), op, in, groups);
  return true;
}

}  // namespace restkv::gpu::decode
