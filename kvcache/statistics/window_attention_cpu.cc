#include <algorithm>

#include "kvcache/cpu/row_reduction.h"
#include "kvcache/cpu/softmax_lanes.h"
#include "kvcache/statistics/window_attention.h"

namespace restkv::cpu {

void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a) {
  constexpr int64_t kTile = 16 * kPanel;
  const int64_t W = shard.W, stride = shard.stride, tiles = (stride + kTile - 1) / kTile;
  const LaneReduction reduce(reduction, alpha, W);
  const RowOrder order = row_order(reduction, W);
  const RowSoftmax* row_softmax = reinterpret_cast<const RowSoftmax*>(softmax);
  ctx.parallel_for(heads.Hq_lc() * tiles, [&](int64_t item) {
    const int64_t h = item / tiles, first = item % tiles * kTile, last = std::min(stride, first + kTile);
    for (int64_t i = first; i < last; i += kLanes) {
      Lanes state = {};
      for (int64_t w = 0; w < order.count; ++w) {
        const int64_t row = h * W + order.first + w * order.step;
        state = reduce.add(state, softmax_lanes(load_lanes(logits + row * stride + i), row_softmax[row]), w);
      }
      store_lanes(a + h * stride + i, reduce.finish(state));
    }
  });
}

}  // namespace restkv::cpu
