// What the kernels of mode `before` share. Internal to kvcache/scores, for *_gpu.cu files.
#pragma once

#include <cuda_bf16.h>

#include "kvcache/gpu/layout.h"
#include "kvcache/gpu/softmax_weight.h"

namespace restkv::gpu {

/// Of mode `before`, with values of type T.
template <class T>
struct BeforeArguments {
  HeadMap heads;
  int W;
  int64_t L_lc, stride, v_ld;
  const float* logits;
  const float2* softmax;
  const float* o;  ///< [Hq_lc * W, d]
  const T* v;
  const float* r;
  bool normalize;
  RowReducer reduce;
  float* c;      ///< [Hq_lc * W, d]: R_h o; computed first
  float* scale;  ///< [Hq_lc * W]: 1 / norm, or 1; computed first
  float* s;
};

/// Positions whose scores have to be computed by plain arithmetic, a bit each: four words for a tile of 64 `parts`
/// positions, [Hq_lc, words_per_head].
struct Unsettled {
  uint32_t* words = nullptr;
  int64_t words_per_head = 0;
  int parts = 1;  ///< 1 or 2

  /// Bit 4 q + t of a word is of position q of the eight that the warp's thread t of four answers for.
  __host__ __device__ static int offset(int t, int q) { return t / 2 * 64 + t % 2 * 8 + q; }
  __host__ __device__ int64_t first(int64_t word) const { return word / 4 * 64 * parts + word % 4 * 16; }
};

/// reconstruction_before_sm90a_gpu.cu: all scores by products of warpgroups, but for the positions that it marks; and
/// c and scale. has_warpgroup_before() has to be true. `group`: the most query heads of a KV head.
/// The words are allocated in `marks`.
Unsettled warpgroup_before(Context& ctx, const BeforeArguments<__nv_bfloat16>& p, int group, Tensor& marks);

/// Whether these products can run: by the device, the build, head size and window rows alone.
bool has_warpgroup_before(int64_t d, int64_t W);

}  // namespace restkv::gpu
