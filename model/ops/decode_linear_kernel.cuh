// The products of decode_linear.h for few sequences: y = x w^T, bound by the reading of w.
//
// A tile is 16 rows of w (two runs of 8 that need not be neighbours: the halves of a rotated head, gate and up) times
// all of K; a block takes RT tiles at once and strides over the rest. K is cut in chunks of 64 elements dealt to the
// block's warps in turn. A thread copies 16-byte pieces of w and x asynchronously into a ring of its own in shared
// memory, many steps ahead, and reads back only what it copied itself, so warps meet only at the end of a tile, where
// their sums are added in warp order. A dot product does not care which elements are called neighbours, so these pieces
// are fragments of mma.m16n8k16 as they lie: rows of w are the 16 rows of A, sequences the 8 columns of B.
//
// The cut of K and the order of all sums depend on K alone. Neither the number of sequences nor RT nor the grid changes
// a bit of a result.
//
// Two blocks share an SM, and a launch has as many blocks as there are places (or one per SM). The next kernel's blocks
// (launch_dependent) take these places one by one as this kernel's blocks end, and fetch their first weights while the
// others finish: memory is busy across launches, and no SM gets more than its part.
#pragma once

#include <algorithm>

#include "dist/base/gpu_launch.h"
#include "dist/base/gpu_math.h"
#include "model/ops/decode_linear.h"

namespace restkv::gpu::decode {

using Half = __nv_bfloat16;

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileRows = 16;
constexpr int kChunk = 64;  // a line of 128 bytes of a row of w
constexpr int kStep = 32;   // elements of k per warp and step: half a chunk
constexpr int kBlocksPerSm = 2;
constexpr int kSharedPerBlock = 112 * 1024;  // of the 228 KB of an SM, which takes 1 KB more for each block
// With this much two blocks do not fit on an SM, but one of them beside one with kSharedPerBlock does.
constexpr int kSharedAlone = 116000;
constexpr int kFragmentBytes = 32 * 16;  // 16 bytes from or for each thread of a warp
constexpr int kFragmentsPerRound = 4;    // accumulator fragments that warps exchange at a time

/// What a product multiplies with the weights.
struct Activations {
  const Half* data;  // [batch, k]
  int64_t ld;
  int k;
  int batch;
  const float* square_sums;  // [batch, parts] of the norm in front, or null
  int parts;
  float hidden, eps;
};

/// RT tiles times NT * 8 sequences at once. `Resident` slots (not 0): the ring has so many and holds weights alone, and
/// a warp's part of the activations is copied once, into shared memory of its own (NT = 1). Otherwise the activations
/// pass through the ring with the weights, again for every group of tiles.
template <int RT, int NT, int Resident>
struct Layout {
  static constexpr bool kResident = Resident > 0;
  static constexpr int kFragments = RT * NT;
  static constexpr int kRound = kFragments < kFragmentsPerRound ? kFragments : kFragmentsPerRound;
  static constexpr int kSlot = (2 * RT + (kResident ? 0 : NT)) * kFragmentBytes;  // one step of a warp
  static constexpr int kPartial = kRound * kFragmentBytes;
  static constexpr int kSlots = kResident ? Resident : (kSharedPerBlock / kWarps - kPartial) / kSlot;
  static constexpr int kShared = kWarps * (kSlots * kSlot + kPartial);  // without resident activations
  static_assert(kSlots >= 2 && kRound <= kWarps && kShared <= kSharedPerBlock && (!kResident || NT == 1));
};

/// The rows of a tile that a thread reads: one of the first eight, one of the last eight; null where there is none.
struct RowPair {
  const Half* low;
  const Half* high;
};

// 16 bytes from global into shared memory, or zeros. The hint fetches the whole line: the other half of the chunk is
// asked for one step later.
__device__ inline void copy_weights(uint32_t to, const Half* from, bool present) {
  int bytes = present ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void copy_activations(uint32_t to, const Half* from, bool present) {
  int bytes = present ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ inline void wait_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Volatile, so that the reads of a slot stay in front of the copies that fill it anew.
__device__ inline uint4 read_fragment(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

__device__ inline void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                           uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// One step of a tile's 16 rows.
struct RowFragments {
  uint4 low, high;
};
__device__ inline RowFragments read_rows(uint32_t from, int tile) {
  return {read_fragment(from + 2 * tile * kFragmentBytes), read_fragment(from + (2 * tile + 1) * kFragmentBytes)};
}

__device__ inline void multiply(float (&c)[4], const RowFragments& a, const uint4& b) {
  mma(c, a.low.x, a.high.x, a.low.y, a.high.y, b.x, b.y);
  mma(c, a.low.z, a.high.z, a.low.w, a.high.w, b.z, b.w);
}

/// Steps of a warp per tile; the same for all warps (the last ones may be empty).
__host__ __device__ inline int steps_of(int k) {
  int chunks = (k + kChunk - 1) / kChunk;
  return (chunks + kWarps - 1) / kWarps * (kChunk / kStep);
}

/// Bytes of one step's activations of a warp where they are resident: threads of other columns have none.
__host__ __device__ inline int resident_step(int batch) { return batch * kStep * static_cast<int>(sizeof(Half)); }

/// Where a warp's copies have got to: a step within a group of RT tiles.
template <class Op, int RT, int NT, int Resident>
struct Feeder {
  using L = Layout<RT, NT, Resident>;
  const Op& op;
  const Activations& in;
  int steps, step = 0, group;
  int lane_k;     // this thread's first element within a step of chunk 0
  uint32_t ring;  // this thread's bytes of slot 0, fragment 0
  uint32_t x;     // this thread's bytes of step 0 of resident activations
  RowPair rows[RT];

  __device__ Feeder(const Op& op_, const Activations& in_, uint32_t shared) : op(op_), in(in_) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    steps = steps_of(in.k);
    ring = shared + warp * (L::kSlots * L::kSlot) + lane * 16;
    x = shared + L::kShared + warp * steps * resident_step(in.batch) + lane * 16;
    group = blockIdx.x;
    lane_k = (threadIdx.x / 32) * kChunk + (threadIdx.x % 4) * 8;
    point();
  }

  __device__ void point() {
#pragma unroll
    for (int r = 0; r < RT; ++r) rows[r] = op.rows(group * RT + r, threadIdx.x % 32 / 4);
  }

  __device__ int k_of(int s) const { return (s / 2) * (kWarps * kChunk) + (s % 2) * kStep + lane_k; }

  __device__ void copy_w(int slot) const {
    int k = k_of(step);
    uint32_t to = ring + slot * L::kSlot;
    bool inside = k < in.k;
#pragma unroll
    for (int r = 0; r < RT; ++r) {
      bool low = inside && rows[r].low != nullptr, high = inside && rows[r].high != nullptr;
      copy_weights(to + 2 * r * kFragmentBytes, low ? rows[r].low + k : op.w, low);
      copy_weights(to + (2 * r + 1) * kFragmentBytes, high ? rows[r].high + k : op.w, high);
    }
  }

  __device__ uint32_t x_at(int slot, int s) const {
    return L::kResident ? x + s * resident_step(in.batch) : ring + slot * L::kSlot + 2 * RT * kFragmentBytes;
  }

  // Columns beyond the batch stay as they were zeroed at the start, or are not there.
  __device__ void copy_x(int slot, int s) const {
    int k = k_of(s);
    uint32_t to = x_at(slot, s);
    bool inside = k < in.k;
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      int column = n * 8 + threadIdx.x % 32 / 4;
      if (column < in.batch)
        copy_activations(to + n * kFragmentBytes, in.data + (inside ? column * in.ld + k : 0), inside);
    }
  }

  __device__ void clear_x(int slot) const {
    uint32_t to = x_at(slot, 0);
#pragma unroll
    for (int n = 0; n < NT; ++n)
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to + n * kFragmentBytes), "r"(0) : "memory");
  }

  __device__ uint4 read_x(int slot, int s, int n) const {
    if (L::kResident && threadIdx.x % 32 / 4 >= in.batch) return make_uint4(0, 0, 0, 0);
    return read_fragment(x_at(slot, s) + n * kFragmentBytes);
  }

  // Whether the activations of this place are still to be fetched.
  __device__ bool wants_x() const { return !L::kResident || group == static_cast<int>(blockIdx.x); }

  __device__ void advance(int groups) {
    if (++step < steps) return;
    step = 0;
    group += gridDim.x;
    if (group < groups) point();
  }
};

__device__ inline float activate(Activation activation, float gate) {
  return activation == Activation::silu
             ? gate / (1.0f + __expf(-gate))
             : 0.5f * gate * (1.0f + tanhf(0.7978845608f * (gate + 0.044715f * gate * gate * gate)));
}

// 1 / sqrt(mean(x^2) + eps) of sequence b, by a warp; 1 without a norm, 0 for columns without a sequence.
__device__ inline float norm_scale(const Activations& in, int b) {
  if (b >= in.batch) return 0.0f;
  if (in.square_sums == nullptr) return 1.0f;
  const float* sums = in.square_sums + static_cast<int64_t>(b) * in.parts;
  float sum = 0.0f;
#pragma unroll 8
  for (int p = threadIdx.x % 32; p < in.parts; p += 32) sum += __ldcg(sums + p);
  return rsqrtf(warp_sum(sum) / in.hidden + in.eps);
}

__device__ inline void norm_scales(const Activations& in, int columns, float* scales) {
  for (int b = threadIdx.x / 32; b < columns; b += kWarps) {
    float scale = norm_scale(in, b);
    if (threadIdx.x % 32 == 0) scales[b] = scale;
  }
}

// The sums of a group of tiles over the warps, in warp order, and the op's own end of the product.
template <class Op, int RT, int NT, int Round = Layout<RT, NT, 0>::kRound>
__device__ void finish_group(const Op& op, const Activations& in, const float (&acc)[RT][NT][4], float4* partial,
                             const float* scales, int group, int turn) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int first = 0; first < RT * NT; first += Round) {
#pragma unroll
    for (int f = 0; f < Round; ++f) {
      if (first + f >= RT * NT) break;
      const float(&c)[4] = acc[(first + f) / NT][(first + f) % NT];
      partial[(warp * Round + f) * 32 + lane] = make_float4(c[0], c[1], c[2], c[3]);
    }
    // The warps take turns, so that none falls behind for good.
    int f = (warp + turn * Round) % kWarps;
    int tile = group * RT + (first + f) / NT, column = (first + f) % NT * 8 + lane % 4 * 2;
    bool mine = f < Round && first + f < RT * NT;
    typename Op::Early early{};
    if (mine) early = op.early(tile, column, lane / 4, in.batch);
    __syncthreads();
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (mine) {
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        float4 part = partial[(w * Round + f) * 32 + lane];
        sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
      }
    }
    __syncthreads();
    if (!mine) continue;
    float s0 = scales[column], s1 = scales[column + 1];
    op.finish(tile, column, lane / 4, in.batch, early, sum.x * s0, sum.z * s0, 0);
    op.finish(tile, column + 1, lane / 4, in.batch, early, sum.y * s1, sum.w * s1, 1);
  }
}

template <class Op, int RT, int NT, int Resident>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    product_kernel(const __grid_constant__ Op op, const __grid_constant__ Activations in, int groups) {
  using L = Layout<RT, NT, Resident>;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float scales[NT * 8];
  uint32_t shared_start = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  float4* partial = reinterpret_cast<float4*>(shared + kWarps * L::kSlots * L::kSlot);

  Feeder<Op, RT, NT, Resident> feeder(op, in, shared_start);
  int rounds = (groups - static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
  int total = rounds * feeder.steps, issued = 0;
  for (int s = 0; s < L::kSlots; ++s) {
    if (!L::kResident) feeder.clear_x(s);
    if (issued == total) continue;
    feeder.copy_w(s);
    feeder.advance(groups);
    ++issued;
  }
  wait_for_previous();
  for (int s = 0; s < L::kSlots; ++s) {
    if (s < issued && (!L::kResident || s < feeder.steps)) feeder.copy_x(s, s % feeder.steps);
    close_group();
  }
  let_next_start();

  int slot = 0;
  for (int round = 0; round < rounds; ++round) {
    float acc[RT][NT][4] = {};
    for (int s = 0; s < feeder.steps; ++s) {
      wait_groups<L::kSlots - 1>();
      uint32_t from = feeder.ring + slot * L::kSlot;
      uint4 b[NT];
#pragma unroll
      for (int n = 0; n < NT; ++n) b[n] = feeder.read_x(slot, s, n);
#pragma unroll
      for (int r = 0; r < RT; ++r) {
        RowFragments a = read_rows(from, r);
#pragma unroll
        for (int n = 0; n < NT; ++n) multiply(acc[r][n], a, b[n]);
      }
      if (issued < total) {
        feeder.copy_w(slot);
        if (feeder.wants_x()) feeder.copy_x(slot, feeder.step);
        feeder.advance(groups);
        ++issued;
      }
      close_group();
      slot = slot + 1 == L::kSlots ? 0 : slot + 1;
    }
    // Here and not before the loop: now there are copies under way.
    if (round == 0) norm_scales(in, NT * 8, scales);
    finish_group<Op, RT, NT>(op, in, acc, partial, scales,
                             static_cast<int>(blockIdx.x) + round * static_cast<int>(gridDim.x), round);
  }
}

template <int RT, int NT, int Resident = 0, class Op>
void launch_groups(Context& ctx, const Op& op, int tiles, const Activations& in) {
  using L = Layout<RT, NT, Resident>;
  auto* kernel = product_kernel<Op, RT, NT, Resident>;
  int groups = (tiles + RT - 1) / RT, sms = ctx.gpu()->multiprocessors();
  int shared = L::kShared + (L::kResident ? kWarps * steps_of(in.k) * resident_step(in.batch) : 0);
  // Few blocks must not sit two on an SM while others have none.
  if (groups <= sms) shared = kSharedAlone;
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedAlone));
  dim3 grid(static_cast<unsigned>(std::min(groups, kBlocksPerSm * sms)));
  launch_dependent(kernel, grid, dim3(kThreads), static_cast<size_t>(shared), stream_of(ctx), op, in, groups);
}

/// Whether the activations fit beside a ring of `Resident` slots.
template <int Resident>
bool fits(const Activations& in) {
  return Layout<1, 1, Resident>::kShared + kWarps * steps_of(in.k) * resident_step(in.batch) <= kSharedPerBlock;
}

}  // namespace restkv::gpu::decode
