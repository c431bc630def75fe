// The kernels of column_sums() on a GPU side by side. Internal to kvcache/statistics, its tests and measurements.
#pragma once

#include "kvcache/statistics/column_sums.h"

namespace restkv::gpu {

/// How the column sums are computed. Their sums differ in the last bits, so a run uses one of them only.
enum class ColumnKernel {
  fastest,     ///< warpgroups where the device and the build can, else warps
  warps,       ///< products of single warps: any device
  warpgroups,  ///< of compute capability 9.0
};

/// column_sums() of bf16 rows of 16-byte alignment by a kernel of choice, which must be able to run: warps for d of 64,
/// 128 and 256, warpgroups for 64 and 128.
void column_sums(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const PromptQueries& prompt,
                 int64_t* sums, ColumnKernel kernel);

struct ColumnArguments;                                          // kvcache/gpu/column_steps.h
void warpgroup_columns(Context& ctx, const ColumnArguments& p);  // column_sums_sm90a_gpu.cu

}  // namespace restkv::gpu
