// What the two tensor-core kernels of mode `after` share. Internal to kvcache/scores, its tests and measurements.
#pragma once

#include "kvcache/scores/reconstruction.h"

namespace restkv::gpu {

/// How the norms of mode `after` are computed. Their sums differ in the last bits, so a run uses one of them only.
enum class NormKernel {
  fastest,  ///< warpgroups where the device and the build can, else warps
  warps,    ///< products of single warps: any device
  n32x1,    ///< products of warpgroups, 32 rows of R_h and 64 positions at a time
  n32x2,    ///< 32 rows, 128 positions
  n64x1,    ///< 64 rows, 64 positions
};

/// reconstruction_after() with factors and bf16 values of head size 64, 128 or 256 by a kernel of choice, which must be
/// able to run (for head sizes other than 128 all kernels of warpgroups are one).
void reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* o, const MatrixView& v, const float* r, double tau, float* s, NormKernel kernel);

/// Whether products of warpgroups can run: on devices of compute capability 9.0, with code for them (sm_90a).
bool has_warpgroup_norms();

struct NormArguments;  // kvcache/gpu/squared_norms.h
/// reconstruction_sm90a_gpu.cu. `group`: the most query heads of a KV head.
void warpgroup_norms(Context& ctx, const NormArguments& p, int group, NormKernel kernel);

}  // namespace restkv::gpu
