// Window logits of layers with a soft-cap, a scale of their own or a sliding window: a pass of its own over the logits,
// so that the kernels that make them stay as they are for the models that need none of it.
#pragma once

#include "dist/base/context.h"
#include "kvcache/attention_form.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// Every visible logit x becomes x times form.relative_scale(d), then cap tanh(x / cap), or -inf at positions up to
/// P + w - sliding_window of window row w; the partials are made anew from them. Arrays as window_logits() left them
/// (window_logits.h): logits [Hq_lc * W, shard.stride], partials [local blocks, Hq_lc * W, 2], both f32.
void bound_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const AttentionForm& form,
                  float* logits, float* partials);

namespace cpu {  // bound_logits_cpu.cc
void bound_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const AttentionForm& form,
                  float* logits, float* partials);
}
namespace gpu {  // bound_logits_gpu.cu
void bound_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const AttentionForm& form,
                  float* logits, float* partials);
}

}  // namespace restkv
