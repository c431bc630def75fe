#include <algorithm>
#include <limits>

#include "kvcache/cpu/softmax_lanes.h"
#include "kvcache/statistics/bound_logits.h"
#include "kvcache/statistics/softmax_partial_cpu.h"

namespace restkv::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// By exp_lanes and not the C library's tanh: the same bits on every host of a run.
Lanes tanh_lanes(Lanes x) { return 1.0f - 2.0f / (exp_lanes(2.0f * x) + 1.0f); }

}  // namespace

void bound_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const AttentionForm& form,
                  float* logits, float* partials) {
  const int64_t rows = heads.Hq_lc() * shard.W, blocks = static_cast<int64_t>(shard.blocks.size());
  const auto scale = static_cast<float>(form.relative_scale(heads.d)), cap = static_cast<float>(form.softcap);
  ctx.parallel_for(blocks * rows, [&](int64_t item) {
    const int64_t b = item / rows, row = item % rows, position = shard.P + row % shard.W;
    const Segment& block = shard.blocks[b];
    float* x = logits + row * shard.stride + block.local;
    const int64_t padded = round_up_to_panel(block.count);
    // Beyond what the row sees there is -inf, of which these would make something else.
    const int64_t visible = std::clamp<int64_t>(position + 1 - block.global, 0, block.count);
    for (int64_t i = 0; i < visible; i += kLanes) {
      Lanes v = load_lanes(x + i) * scale;
      if (cap > 0.0f) v = cap * tanh_lanes(v / cap);
      for (int64_t j = i; j < std::min(visible, i + kLanes); ++j) x[j] = v[j - i];
    }
    if (form.sliding_window > 0) {
      const int64_t hidden = std::clamp<int64_t>(position + 1 - form.sliding_window - block.global, 0, block.count);
      std::fill(x, x + hidden, kMinusInfinity);
    }
    softmax_partial(x, padded, partials + (b * rows + row) * 2);
  });
}

}  // namespace restkv::cpu
