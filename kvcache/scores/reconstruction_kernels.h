// The kernels that compute the norms, by name. Internal to kvcache/scores, its tests and measurements.
#pragma once

#include "kvcache/scores/reconstruction.h"

namespace restkv::gpu {

/// How the norms of mode `after` are computed. Their sums differ in the last bits, so a run uses one of them only.
enum class NormKernel {
  fastest,     ///< warpgroups where the device and the build can, else warps
  warps,       ///< products of single warps: any device
  warpgroups,  ///< of compute capability 9.0
};

/// reconstruction_after() with factors and bf16 values of head size 64, 128 or 256 by a kernel of choice, which must be
/// able to run.
void reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* o, const MatrixView& v, const float* r, double tau, float* s, NormKernel kernel);

/// The same of mode `before`.
enum class BeforeKernel {
  fastest,     ///< warpgroups where device, build, head size and window allow it, else plain
  plain,       ///< f32 arithmetic on any device
  warpgroups,  ///< of compute capability 9.0
};

/// reconstruction_before() by a kernel of choice, which must be able to run.
void reconstruction_before(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                           const float* softmax, const float* o, const MatrixView& v, const float* r,
                           const BeforeOptions& options, float* s, BeforeKernel kernel);

struct NormArguments;  // kvcache/gpu/squared_norms.h
/// reconstruction_sm90a_gpu.cu. `group`: the most query heads of a KV head.
void warpgroup_norms(Context& ctx, const NormArguments& p, int group);

}  // namespace restkv::gpu
