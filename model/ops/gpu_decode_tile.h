// One warp's share of decode attention: sixteen cached rows at a time against all query heads of a group, on the
// tensor cores. Keys and values stream through shared memory, each warp with a pipeline of its own.
//
// Products are turned round so that a group of up to eight query heads fills the narrow side of the 16x8x16 tile:
// scores S^T [16 keys, 8 queries] = K Q^T, and outputs O^T [16 of d, 8 queries] += V^T P^T.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace restkv::gpu {

constexpr int kUnitRows = 16;  ///< rows that a warp takes at a time

/// D: head size in shared memory, 64, 128 or 256; the model's head size d may be smaller.
template <int D, int kStages_>
struct UnitLayout {
  static constexpr int kStages = kStages_;
  static constexpr int kBytes = kUnitRows * 2 * D;
  static constexpr int kWarpBytes = kStages * 2 * kBytes;  // keys of all stages, then values
};

/// Where the 16-byte chunk c of row r of a unit lies. Chunks are moved so that no two of eight accesses meet in a bank:
/// four chunks of two keys' rows, one chunk of eight values' rows.
template <int D, bool kKeys>
__device__ inline int chunk_offset(int r, int c) {
  return r * 2 * D + ((kKeys ? c ^ (r & 1) << 2 : c ^ (r & 7)) << 4);
}

/// The rows of one cache head that this launch sees: `length` cached ones and, if `count` is greater, the new one.
struct HeadRows {
  const __nv_bfloat16 *k, *v;          // [length, d] in the cache
  const __nv_bfloat16 *k_new, *v_new;  // [d]
  int length, count, d;
};

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

/// 16 bytes from global to shared memory in the background; zeros when `bytes` is 0.
__device__ inline void copy_later(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void wait_copy_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
  __syncwarp();
}

__device__ inline void load_matrices_turned(uint32_t (&a)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(from)
               : "memory");
}
__device__ inline uint32_t turn_matrix(uint32_t a) {
  uint32_t turned;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(a));
  return turned;
}
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Starts the copy of rows [row, row + 16) of keys or values to a unit at shared address `to`; zeros beyond the last
/// row and beyond d. With kCached, the new row is left out (store_new_row writes it).
template <int D, bool kKeys, bool kCached>
__device__ __forceinline__ void fetch_unit(uint32_t to, const __nv_bfloat16* cached, const __nv_bfloat16* fresh,
                                           int row, const HeadRows& head) {
  constexpr int kChunks = D / 8;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kUnitRows * kChunks / 32; ++i) {
    int index = i * 32 + lane, r = index / kChunks, c = index % kChunks;
    bool is_new = row + r >= head.length;
    const __nv_bfloat16* from = is_new ? fresh : cached + static_cast<int64_t>(row + r) * head.d;
    bool there = row + r < head.count && c * 8 < head.d;
    if (kCached && there && is_new) continue;
    copy_later(to + chunk_offset<D, kKeys>(r, c), there ? from + c * 8 : fresh, there ? 16 : 0);
  }
}

/// Writes the new row to row r of a unit of keys or values.
template <int D, bool kKeys>
__device__ __forceinline__ void store_new_row(unsigned char* unit, const __nv_bfloat16* fresh, int r, int d) {
  int c = threadIdx.x % 32;
  if (c * 8 < d)
    *reinterpret_cast<uint4*>(unit + chunk_offset<D, kKeys>(r, c)) = __ldcg(reinterpret_cast<const uint4*>(fresh) + c);
}

/// What one warp has gathered of the rows it has seen: query head 8 n + 2 (lane % 4) + j has maximum m[n][j], sum of
/// exp l[n][j] (of this lane's keys only) and, in o[n][t], the outputs 16 t + lane / 4 and 8 further.
template <int D, int kTiles>
struct Gathered {
  float m[kTiles][2], l[kTiles][2], o[kTiles][D / 16][4];

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) m[n][j] = -INFINITY, l[n][j] = 0.0f;
#pragma unroll
      for (int t = 0; t < D / 16; ++t)
#pragma unroll
        for (int j = 0; j < 4; ++j) o[n][t][j] = 0.0f;
    }
  }
};

/// The narrow operand of K Q^T. A sum over d may run in any order, as long as keys and queries agree: lane t of four
/// takes chunk 4 j + t whole, its first half in step 2 j and its second in step 2 j + 1.
template <int D, int kTiles>
struct Queries {
  uint4 chunk[kTiles][D / 32];

  /// q [group, d] bf16; zeros beyond.
  __device__ __forceinline__ void load(const __nv_bfloat16* q, int group, int d) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      int query = 8 * n + lane / 4;
#pragma unroll
      for (int j = 0; j < D / 32; ++j) {
        int c = 8 * (4 * j + lane % 4);
        bool there = query < group && c < d;
        chunk[n][j] = there ? __ldcg(reinterpret_cast<const uint4*>(q + query * d + c)) : make_uint4(0, 0, 0, 0);
      }
    }
  }
};

/// Scores s, in units of log2, become cap tanh(s / cap); cap 0: they stay.
struct ScoreCap {
  float cap = 0.0f, per_cap = 0.0f;
};

/// Scores of a unit's keys in units of log2: s[n][0..1] key lane / 4, s[n][2..3] key lane / 4 + 8; -inf beyond `rows`.
template <int D, int kTiles>
__device__ __forceinline__ void score_unit(float (&s)[kTiles][4], const unsigned char* keys,
                                           const Queries<D, kTiles>& q, int rows, float scale, ScoreCap cap) {
  const int lane = threadIdx.x % 32, r = lane / 4;
  float odd[kTiles][4];  // two chains of sums: half the latency
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j) s[n][j] = odd[n][j] = 0.0f;
#pragma unroll
  for (int j = 0; j < D / 32; ++j) {
    uint4 upper = *reinterpret_cast<const uint4*>(keys + chunk_offset<D, true>(r, 4 * j + lane % 4));
    uint4 lower = *reinterpret_cast<const uint4*>(keys + chunk_offset<D, true>(r + 8, 4 * j + lane % 4));
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const uint4& b = q.chunk[n][j];
      multiply_add(s[n], {upper.x, lower.x, upper.y, lower.y}, {b.x, b.y});
      multiply_add(odd[n], {upper.z, lower.z, upper.w, lower.w}, {b.z, b.w});
    }
  }
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float score = (s[n][j] + odd[n][j]) * scale;
      if (cap.cap > 0.0f) score = cap.cap * tanhf(score * cap.per_cap);
      s[n][j] = r + 8 * (j / 2) < rows ? score : -INFINITY;
    }
}

/// One step of the online softmax: probabilities of a unit as the narrow operand of V^T P^T, sums and maxima moved on.
template <int D, int kTiles>
__device__ __forceinline__ void weigh_unit(uint32_t (&p)[kTiles][2], const float (&s)[kTiles][4],
                                           Gathered<D, kTiles>& g) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    float weight[4], shrink[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float highest = fmaxf(s[n][j], s[n][j + 2]);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2)
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, offset));
      highest = fmaxf(highest, g.m[n][j]);  // finite: a unit has at least one row
      shrink[j] = exp2f(g.m[n][j] - highest);
      g.m[n][j] = highest;
      weight[j] = exp2f(s[n][j] - highest);
      weight[j + 2] = exp2f(s[n][j + 2] - highest);
      g.l[n][j] = g.l[n][j] * shrink[j] + weight[j] + weight[j + 2];
    }
    if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
      for (int t = 0; t < D / 16; ++t)
#pragma unroll
        for (int j = 0; j < 4; ++j) g.o[n][t][j] *= shrink[j % 2];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      __nv_bfloat162 pair = __floats2bfloat162_rn(weight[2 * i], weight[2 * i + 1]);
      p[n][i] = turn_matrix(*reinterpret_cast<uint32_t*>(&pair));
    }
  }
}

template <int D, int kTiles>
__device__ __forceinline__ void add_values(Gathered<D, kTiles>& g, uint32_t values, const uint32_t (&p)[kTiles][2]) {
  const int lane = threadIdx.x % 32, key = lane % 8 + 8 * (lane / 16), half = lane / 8 % 2;
#pragma unroll
  for (int t = 0; t < D / 16; ++t) {
    uint32_t a[4];
    load_matrices_turned(a, values + chunk_offset<D, false>(key, 2 * t + half));
#pragma unroll
    for (int n = 0; n < kTiles; ++n) multiply_add(g.o[n][t], a, p[n]);
  }
}

}  // namespace restkv::gpu
