// What the kernels of the column sums share (statistics/column_sums*_gpu.cu): the arguments, and the way of the queries
// past a tile of keys.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kvcache/gpu/layout.h"
#include "kvcache/statistics/column_sums.h"

namespace restkv::gpu {

// Queries whose weights are added in f32; then in integers: which queries a rank has does not change a bit of the
// whole.
inline constexpr int kAdded = 32;
inline constexpr float kLog2e = 1.4426950408889634f;

struct ColumnArguments {
  HeadMap heads;
  Segment run[2];  ///< of this rank's positions
  int64_t L, L_lc, q_ld, k_ld;
  float scale;  ///< log2(e) / sqrt(d)
  const __nv_bfloat16* q;
  const __nv_bfloat16* k;
  const float* lse;
  int64_t* sums;
};

__device__ inline float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Where the queries of a step lie.
struct QueryStep {
  int64_t local;     ///< first row on this rank
  int64_t position;  ///< its position
  int count;         ///< rows, at most kQueries
};

/// Steps of kQueries queries that see any of the keys from `key0` on, through both runs.
template <int kQueries>
struct QuerySteps {
  int64_t skip[2];  // queries of each run before the first step
  int count[2];

  __device__ QuerySteps(const Segment (&run)[2], int64_t key0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      skip[i] = max(int64_t{0}, (key0 - run[i].global) / kQueries * kQueries);
      count[i] = skip[i] < run[i].count ? static_cast<int>((run[i].count - skip[i] + kQueries - 1) / kQueries) : 0;
    }
  }
  __device__ int total() const { return count[0] + count[1]; }
  __device__ QueryStep at(const Segment (&run)[2], int index) const {
    // Field by field: an index into kernel parameters would copy them to local memory.
    const bool lower = index < count[0];
    const int64_t first =
        (lower ? skip[0] : skip[1]) + static_cast<int64_t>(lower ? index : index - count[0]) * kQueries;
    const int64_t left = (lower ? run[0].count : run[1].count) - first;
    return {(lower ? run[0].local : run[1].local) + first, (lower ? run[0].global : run[1].global) + first,
            static_cast<int>(left < kQueries ? left : kQueries)};
  }
};

}  // namespace restkv::gpu
