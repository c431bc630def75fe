#include <algorithm>
#include <cmath>
#include <limits>

#include "dist/base/lanes.h"
#include "kvcache/scores/key_norms.h"

namespace restkv::cpu {
namespace {

constexpr int64_t kPerItem = 256;  // positions

float score(const float* x, int64_t d) {
  Lanes squares = {};
  int64_t j = 0;
  for (; j + kLanes <= d; j += kLanes) squares += load_lanes(x + j) * load_lanes(x + j);
  float sum = sum_lanes(squares);
  for (; j < d; ++j) sum += x[j] * x[j];
  return std::max(-std::sqrt(sum), std::numeric_limits<float>::lowest());
}

}  // namespace

void key_norms(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* k, float* scores) {
  const int64_t d = heads.d, Hkv_lc = heads.Hkv_lc();
  for (const Segment& s : shard.past)
    ctx.parallel_for((s.count + kPerItem - 1) / kPerItem, [&](int64_t item) {
      const int64_t last = s.local + std::min(s.count, (item + 1) * kPerItem);
      for (int64_t i = s.local + item * kPerItem; i < last; ++i)
        for (int64_t g = 0; g < Hkv_lc; ++g) scores[g * shard.stride + i] = score(k + (i * Hkv_lc + g) * d, d);
    });
}

}  // namespace restkv::cpu
