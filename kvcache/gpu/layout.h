// What kernels know of heads, blocks and slots: a few numbers passed by value, so that no list has to be uploaded.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dist/base/error.h"
#include "dist/base/gemm.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"

namespace restkv::gpu {

/// The owned blocks of the grid: one or two runs of consecutive blocks, all of one size but the grid's last.
struct BlockGrid {
  int64_t size = 1;       ///< positions of a whole block
  int64_t first[2] = {};  ///< global position of each run's first block
  int64_t L = 0, P = 0;   ///< prompt tokens; past positions
  int lower = 0;          ///< blocks of the first run
  int blocks = 0;

  __host__ __device__ int64_t local(int b) const { return b * size; }
  __host__ __device__ int64_t global(int b) const {
    return b < lower ? first[0] + b * size : first[1] + (b - lower) * size;
  }
  __host__ __device__ int64_t count(int b) const {
    const int64_t left = L - global(b);
    return left < size ? left : size;
  }
};

inline BlockGrid block_grid(const LocalShard& shard) {
  BlockGrid grid;
  grid.L = shard.L;
  grid.P = shard.P;
  grid.blocks = static_cast<int>(shard.blocks.size());
  if (grid.blocks == 0) return grid;
  grid.size = shard.blocks[0].count;
  grid.lower = grid.blocks;
  grid.first[0] = shard.blocks[0].global;
  for (int b = 1; b < grid.blocks; ++b)
    if (shard.blocks[b].global != shard.blocks[b - 1].global + grid.size) {
      grid.lower = b;
      grid.first[1] = shard.blocks[b].global;
      break;
    }
  for (int b = 0; b < grid.blocks; ++b) {
    const Segment& block = shard.blocks[b];
    RESTKV_CHECK(block.local == grid.local(b) && block.global == grid.global(b) && block.count == grid.count(b),
                 "block {} of {}: local {}, global {}, {} positions do not fit a grid of {}", b, grid.blocks,
                 block.local, block.global, block.count, grid.size);
  }
  return grid;
}

/// HeadLayout for kernels.
struct HeadMap {
  int d, group, Hq_lc, Hkv_lc;
  int q_begin, q_end, kv_begin;

  /// Local query heads of local KV head g: [first, first + count).
  __device__ int first(int g) const { return max((kv_begin + g) * group, q_begin) - q_begin; }
  __device__ int count(int g) const { return min((kv_begin + g + 1) * group, q_end) - q_begin - first(g); }
};

inline HeadMap head_map(const HeadLayout& heads) {
  return {static_cast<int>(heads.d),
          static_cast<int>(heads.group()),
          static_cast<int>(heads.Hq_lc()),
          static_cast<int>(heads.Hkv_lc()),
          static_cast<int>(heads.local.q.begin),
          static_cast<int>(heads.local.q.end),
          static_cast<int>(heads.local.kv.begin)};
}

/// The most query heads that one local KV head has here.
inline int largest_group(const HeadLayout& heads) {
  int64_t most = 0;
  for (int64_t g = 0; g < heads.Hkv_lc(); ++g) most = std::max(most, heads.query_heads_of(g).size());
  return static_cast<int>(most);
}

/// slot[b] as runs of consecutive slots: two per sequence rank.
struct SlotRuns {
  static constexpr int kMost = 256;
  int runs = 0;
  int blocks = 0;
  int block[kMost];  ///< first block of a run
  int slot[kMost];   ///< its slot

  /// Calls body(slot) for the blocks first, first + step, ... in ascending order.
  template <class Body>
  __device__ void for_blocks(int first, int step, Body&& body) const {
    int b = first;
    for (int r = 0; r < runs; ++r) {
      const int end = r + 1 < runs ? block[r + 1] : blocks, shift = slot[r] - block[r];
#pragma unroll 8
      for (; b < end; b += step) body(b + shift);
    }
  }
};

inline SlotRuns slot_runs(const std::vector<int64_t>& slot) {
  SlotRuns result;
  result.blocks = static_cast<int>(slot.size());
  for (int b = 0; b < result.blocks; ++b) {
    if (b > 0 && slot[b] == slot[b - 1] + 1) continue;
    RESTKV_CHECK(result.runs < SlotRuns::kMost, "the blocks lie in more than {} runs: more than {} sequence ranks",
                 SlotRuns::kMost, SlotRuns::kMost / 2);
    result.block[result.runs] = b;
    result.slot[result.runs++] = static_cast<int>(slot[b]);
  }
  return result;
}

__device__ inline float to_f32(float x) { return x; }
__device__ inline float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }

/// Whether rows can be read in vectors of `bytes`.
inline bool aligned_rows(const MatrixView& m, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(m.data) % bytes == 0 && m.ld * size_of(m.dtype) % bytes == 0;
}

/// Calls body(pointer to the elements) for f32 or bf16 rows.
template <class Body>
void with_elements(const char* op, const MatrixView& m, Body&& body) {
  if (m.dtype == DType::f32) return body(static_cast<const float*>(m.data));
  RESTKV_CHECK(m.dtype == DType::bf16, "{} on a GPU: {}, f32 or bf16 needed", op, name_of(m.dtype));
  body(static_cast<const __nv_bfloat16*>(m.data));
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

}  // namespace restkv::gpu
