#include <algorithm>

#include "model/ops/cache_rope.h"

namespace restkv::cpu {
namespace {

constexpr int64_t kTile = 128;  // rows of one item of work

}  // namespace

void rotate_cache(Context& ctx, const KvView& cache, const float* table, float* keys) {
  struct Tile {
    int64_t head, first, last;
  };
  std::vector<Tile> tiles;
  for (int64_t h = 0; h < cache.heads; ++h)
    for (int64_t first = 0; first < cache.lengths[h]; first += kTile)
      tiles.push_back({h, first, std::min(first + kTile, cache.lengths[h])});
  const int64_t half = cache.d / 2;
  ctx.parallel_for(static_cast<int64_t>(tiles.size()), [&](int64_t t) {
    const auto [head, first, last] = tiles[static_cast<size_t>(t)];
    const int64_t offset = cache.head_offset[head], storage = offset / cache.row_stride;
    for (int64_t row = first; row < last; ++row) {
      const float* from = cache.k_head<float>(head) + row * cache.row_stride;
      float* to = keys + offset + row * cache.row_stride;
      const int64_t slot = cache.slots != nullptr ? cache.slots[storage + row] : row;
      const float *cos = table + 2 * slot * half, *sin = cos + half;
      for (int64_t i = 0; i < half; ++i) {
        to[i] = from[i] * cos[i] - from[i + half] * sin[i];
        to[i + half] = from[i + half] * cos[i] + from[i] * sin[i];
      }
    }
  });
}

}  // namespace restkv::cpu
