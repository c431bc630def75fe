// How the tensor-core kernel of the window logits is cut. Internal to kvcache/statistics, its tests and measurements.
#pragma once

#include "kvcache/statistics/window_logits.h"

namespace restkv::gpu {

/// Keys per step, and whether logits leave the caches first. The partials of the softmax differ in the last bits with
/// the keys, so a run uses one of them only. For head size 128 with more than 64 query rows per KV head; all else has
/// one kernel.
enum class LogitsTile { keys128, streamed128, keys64, streamed64 };

void window_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const MatrixView& q_window,
                   const MatrixView& k, float* logits, float* partials, LogitsTile tile);

}  // namespace restkv::gpu
