#include <cmath>
#include <limits>

#include "kvcache/cpu/lane_tile.h"
#include "kvcache/statistics/column_sums.h"

namespace restkv::cpu {
namespace {

// The weights of `rows` consecutive queries of one head, added up per key of the panel (positions key0, ...).
// q: row 0 of the head, position row0; scaled logits go through `tile` [kPanel, kPanel].
void add_tile(const float* q, int64_t q_stride, const float* lse, int64_t row0, int64_t rows, const float* panel,
              int64_t key0, int64_t d, float* tile, int64_t* sums) {
  multiply_panel(q, q_stride, rows, panel, kPanel, d, tile, kPanel, /*accumulate=*/false);
  Lanes total[2] = {};
  for (int64_t r = 0; r < rows; ++r) {
    if (lse[r] == -std::numeric_limits<float>::infinity()) continue;
    const int64_t visible = row0 + r + 1 - key0;  // keys of the panel that the row sees
    for (int v = 0; v < 2; ++v) {
      float weights[kLanes];
      store_lanes(weights, exp_lanes(load_lanes(tile + r * kPanel + v * kLanes) - lse[r]));
      for (int64_t i = std::max<int64_t>(0, visible - v * kLanes); i < kLanes; ++i) weights[i] = 0.0f;
      total[v] += load_lanes(weights);
    }
  }
  for (int64_t i = 0; i < kPanel; ++i) sums[i] += column_sum_of(total[i / kLanes][i % kLanes]);
}

}  // namespace

// An item is one panel of keys with all queries of its KV head: it alone adds to these columns. Tiles of queries begin
// at multiples of kPanel positions, so that a tile's f32 sum is the same on every layout.
void column_sums(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* q, const float* k,
                 const float* lse, int64_t* sums) {
  const int64_t d = heads.d, Hkv_lc = heads.Hkv_lc(), q_stride = heads.Hq_lc() * d, k_stride = Hkv_lc * d;
  const int64_t panels = (shard.L + kPanel - 1) / kPanel;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
  for (const Segment& s : shard.all) RESTKV_CHECK(s.global % kPanel == 0, "a run of positions begins at {}", s.global);
  ctx.parallel_for(panels * Hkv_lc, [&](int64_t item) {
    const int64_t g = item % Hkv_lc, key0 = item / Hkv_lc * kPanel, keys = std::min(kPanel, shard.L - key0);
    TileBuffer panel(d * kPanel), tile(kPanel * kPanel);
    pack_panel(k + key0 * k_stride + g * d, k_stride, keys, d, panel.get());
    for (int64_t i = 0; i < d * kPanel; ++i) panel[i] *= scale;
    const Range group = heads.query_heads_of(g);
    for (int64_t h = group.begin; h < group.end; ++h) {
      int64_t columns[kPanel] = {};
      for (const Segment& s : shard.all)
        for (int64_t first = std::max<int64_t>(0, key0 - s.global); first < s.count; first += kPanel)
          add_tile(q + (s.local + first) * q_stride + h * d, q_stride, lse + h * shard.L_lc + s.local + first,
                   s.global + first, std::min(kPanel, s.count - first), panel.get(), key0, d, tile.get(), columns);
      std::copy_n(columns, keys, sums + h * shard.L + key0);
    }
  });
}

}  // namespace restkv::cpu
