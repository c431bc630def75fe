#include <cmath>
#include <limits>

#include "kvcache/cpu/lane_tile.h"
#include "kvcache/statistics/softmax_partial_cpu.h"
#include "kvcache/statistics/window_logits.h"

namespace restkv::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Query rows in the order of the logits, scaled: [Hq_lc * W, d].
void pack_queries(const HeadLayout& heads, int64_t W, const float* q_window, float* packed) {
  float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(heads.d)));
  for (int64_t h = 0; h < heads.Hq_lc(); ++h)
    for (int64_t w = 0; w < W; ++w)
      for (int64_t k = 0; k < heads.d; ++k)
        packed[(h * W + w) * heads.d + k] = q_window[(w * heads.Hq_lc() + h) * heads.d + k] * scale;
}

// Replaces by -inf what window rows must not see: columns from the row's own position + 1 to the end of the panels.
void mask_rows(const LocalShard& shard, const Segment& block, int64_t rows, float* logits) {
  int64_t padded = round_up_to_panel(block.count);
  if (block.global + padded <= shard.P + 1) return;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t visible = shard.P + r % shard.W + 1 - block.global;
    visible = std::clamp<int64_t>(visible, 0, block.count);
    std::fill(logits + r * shard.stride + visible, logits + r * shard.stride + padded, kMinusInfinity);
  }
}

}  // namespace

void window_logits(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* q_window,
                   const float* k, float* logits, float* partials) {
  const int64_t W = shard.W, d = heads.d, Hkv_lc = heads.Hkv_lc(), all_rows = heads.Hq_lc() * W;
  Tensor packed = ctx.empty(DType::f32, {all_rows, d});
  pack_queries(heads, W, q_window, packed.data<float>());
  const int64_t blocks = static_cast<int64_t>(shard.blocks.size());
  ctx.parallel_for(blocks * Hkv_lc, [&](int64_t item) {
    const int64_t b = item / Hkv_lc, g = item % Hkv_lc;
    const Segment& block = shard.blocks[b];
    const Range h = heads.query_heads_of(g);
    const int64_t row0 = h.begin * W, rows = h.size() * W;
    TileBuffer panel(d * kPanel);
    float* out = logits + row0 * shard.stride + block.local;
    for (int64_t i = 0; i < block.count; i += kPanel) {
      const float* keys = k + ((block.local + i) * Hkv_lc + g) * d;
      pack_panel(keys, Hkv_lc * d, std::min(kPanel, block.count - i), d, panel.get());
      multiply_panel(packed.data<float>() + row0 * d, d, rows, panel.get(), kPanel, d, out + i, shard.stride, false);
    }
    mask_rows(shard, block, rows, out);
    for (int64_t r = 0; r < rows; ++r)
      softmax_partial(out + r * shard.stride, round_up_to_panel(block.count), partials + (b * all_rows + row0 + r) * 2);
  });
}

void fold_softmax(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, float* softmax) {
  const int64_t tiles = (rows + kLanes - 1) / kLanes;
  ctx.parallel_for(tiles, [&](int64_t tile) {
    for (int64_t row = tile * kLanes; row < std::min(rows, (tile + 1) * kLanes); ++row) {
      float max = kMinusInfinity;
      for (int64_t s : slot) max = std::max(max, gathered[(s * rows + row) * 2]);
      double sum = 0.0;
      for (int64_t s : slot) {
        const float* partial = gathered + (s * rows + row) * 2;
        // exp_lanes and not the C library's exp: the same bits on every host of a run.
        if (partial[1] > 0.0f) sum += static_cast<double>(partial[1]) * exp_lanes(broadcast_lanes(partial[0] - max))[0];
      }
      softmax[row * 2] = max;
      softmax[row * 2 + 1] = sum > 0.0 ? static_cast<float>(1.0 / sum) : 0.0f;
    }
  });
}

}  // namespace restkv::cpu
