// The kernels that compute the window's outputs, by name. Internal to kvcache/statistics, its tests and measurements.
#pragma once

#include <cstdint>

#include "kvcache/statistics/window_output.h"

namespace restkv::gpu {

/// How window_output_partials() multiplies. Sums differ in the last bits, so a run uses one of them only.
enum class OutputKernel {
  fastest,     ///< warpgroups where device, build and head size allow it, else plain
  plain,       ///< f32 arithmetic on any device
  warpgroups,  ///< of compute capability 9.0
};

/// window_output_partials() by a kernel of choice, which must be able to run.
void window_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                            const float* softmax, const MatrixView& v, float* partials, OutputKernel kernel);

}  // namespace restkv::gpu

#ifdef __CUDACC__
#include <cuda_bf16.h>

#include "kvcache/gpu/layout.h"

namespace restkv::gpu {

struct WindowArguments {
  BlockGrid grid;
  HeadMap heads;
  int W;
  int64_t stride, v_ld;
  const float* logits;
  const float2* softmax;
  float* partials;
};

/// window_output_sm90a_gpu.cu. `group`: the most query heads of a KV head; head size 64, 128 or 256.
void warpgroup_outputs(Context& ctx, const WindowArguments& p, const __nv_bfloat16* v, int group);

}  // namespace restkv::gpu
#endif
