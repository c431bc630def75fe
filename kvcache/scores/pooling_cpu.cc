#include <limits>

#include "kvcache/cpu/lane_tile.h"
#include "kvcache/scores/pooling.h"

namespace restkv::cpu {
namespace {

// out[j] = the score at position first + j, for `count` positions that may lie outside [0, P).
void copy_padded(const float* scores, int64_t P, int64_t first, int64_t count, PoolEdge edge, float* out) {
  const float outside = edge == PoolEdge::lowest ? -std::numeric_limits<float>::infinity() : 0.0f;
  const float before = edge == PoolEdge::replicate ? scores[0] : outside;
  const float behind = edge == PoolEdge::replicate ? scores[P - 1] : outside;
  const int64_t begin = std::clamp<int64_t>(-first, 0, count), end = std::clamp<int64_t>(P - first, begin, count);
  std::fill(out, out + begin, before);
  std::copy(scores + first + begin, scores + first + end, out + begin);
  std::fill(out + end, out + count, behind);
}

}  // namespace

void pool_scores(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, PoolEdge edge,
                 const PoolWindow* windows, float* pooled) {
  constexpr int64_t kTile = 1024;
  int64_t tiles = 0;
  for (const Segment& s : shard.past) tiles += (s.count + kTile - 1) / kTile;
  ctx.parallel_for(rows * tiles, [&](int64_t item) {
    const int64_t row = item / tiles;
    int64_t tile = item % tiles, segment = 0;
    for (; tile >= (shard.past[segment].count + kTile - 1) / kTile; ++segment)
      tile -= (shard.past[segment].count + kTile - 1) / kTile;
    const Segment& run = shard.past[segment];
    const int64_t begin = tile * kTile, count = std::min(kTile, run.count - begin);
    const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
    const PoolWindow& w = windows[row];
    TileBuffer near(padded + w.width()), out(padded);
    copy_padded(scores + row * shard.P, shard.P, run.global + begin + w.first, padded + w.width(), edge, near.get());
    const float width = static_cast<float>(w.width());
    for (int64_t i = 0; i < padded; i += kLanes) {
      Lanes value = load_lanes(near + i);
      if (edge == PoolEdge::lowest)
        for (int64_t j = 1; j < w.width(); ++j) value = max_lanes(value, load_lanes(near + i + j));
      else
        for (int64_t j = 1; j < w.width(); ++j) value += load_lanes(near + i + j);
      store_lanes(out + i, edge == PoolEdge::lowest ? value : value / width);
    }
    std::copy_n(out.get(), count, pooled + row * shard.stride + run.local + begin);
  });
}

}  // namespace restkv::cpu
