#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "dist/base/lanes.h"
#include "model/ops/attention_prefill.h"

namespace restkv::cpu {
namespace {

constexpr int64_t kQueryTile = 128;
constexpr int64_t kKeyTile = 512;
constexpr float kMasked = -std::numeric_limits<float>::infinity();

struct Scratch {
  std::vector<float> q;         // [kQueryTile, d], padded with zero rows
  std::vector<float> scores;    // [kQueryTile, kKeyTile]
  std::vector<float> out;       // [kQueryTile, d]
  std::vector<float> max, sum;  // [kQueryTile]
};

// The scaled scores of a row, soft-capped: cap tanh(s / cap), tanh(x) = 1 - 2 / (1 + exp(2 x)).
void cap_scores(float* row, int64_t width, float scale, float cap) {
  for (int64_t i = 0; i < width; i += kLanes)
    store_lanes(row + i, cap - 2.0f * cap / (1.0f + exp_lanes(load_lanes(row + i) * (2.0f * scale / cap))));
}

// One row of scores becomes exp(score - new maximum); returns their sum. Entries outside `visible` are masked. `width`
// is a multiple of kLanes.
float exponentiate(float* row, int64_t width, Range visible, float scale, float* running_max, float* correction) {
  std::fill(row, row + visible.begin, kMasked);
  std::fill(row + visible.end, row + width, kMasked);
  Lanes highest = broadcast_lanes(kMasked);
  for (int64_t i = 0; i < width; i += kLanes) {
    Lanes v = load_lanes(row + i) * scale;
    store_lanes(row + i, v);
    highest = max_lanes(highest, v);
  }
  float block_max = kMasked;
  for (int i = 0; i < kLanes; ++i) block_max = std::max(block_max, highest[i]);
  float next = std::max(*running_max, block_max);
  if (next == kMasked) {  // before the row's sliding window: exp(-inf + inf) would be no number
    std::fill(row, row + width, 0.0f);
    *correction = 0.0f;
    return 0.0f;
  }
  *correction = *running_max == kMasked ? 0.0f : std::exp(*running_max - next);
  *running_max = next;
  Lanes total = {};
  for (int64_t i = 0; i < width; i += kLanes) {
    Lanes p = exp_lanes(load_lanes(row + i) - next);
    store_lanes(row + i, p);
    total += p;
  }
  return sum_lanes(total);
}

// Queries at positions [first_row, first_row + rows) of one head over the keys [key0, key0 + keys).
void attend_keys(const KvView& kv, int64_t kv_head, int64_t key0, int64_t keys, int64_t first_row, int64_t rows,
                 const PrefillAttention& args, Scratch& s) {
  const int64_t window = args.sliding_window;
  const auto scale = static_cast<float>(args.scale), cap = static_cast<float>(args.softcap);
  int64_t d = kv.d;
  const float* k = kv.k_head<float>(kv_head) + key0 * kv.row_stride;
  const float* v = kv.v_head<float>(kv_head) + key0 * kv.row_stride;
  int64_t width = (keys + kLanes - 1) / kLanes * kLanes;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kQueryTile, static_cast<blasint>(keys), static_cast<blasint>(d),
              1.0f, s.q.data(), static_cast<blasint>(d), k, static_cast<blasint>(kv.row_stride), 0.0f, s.scores.data(),
              kKeyTile);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t end = first_row + r + 1, begin = window > 0 ? end - window : 0;
    const Range visible{std::clamp<int64_t>(begin - key0, 0, keys), std::clamp<int64_t>(end - key0, 0, keys)};
    float correction = 0.0f;
    if (cap > 0.0f) cap_scores(&s.scores[r * kKeyTile], width, scale, cap);
    float sum =
        exponentiate(&s.scores[r * kKeyTile], width, visible, cap > 0.0f ? 1.0f : scale, &s.max[r], &correction);
    s.sum[r] = s.sum[r] * correction + sum;
    for (int64_t c = 0; c < d; ++c) s.out[r * d + c] *= correction;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kQueryTile, static_cast<blasint>(d),
              static_cast<blasint>(keys), 1.0f, s.scores.data(), kKeyTile, v, static_cast<blasint>(kv.row_stride), 1.0f,
              s.out.data(), static_cast<blasint>(d));
}

void attend_tile(const PrefillAttention& args, const KvView& kv, const HeadLayout& heads, int64_t head, int64_t row0,
                 Scratch& s) {
  int64_t d = kv.d, rows = std::min(kQueryTile, args.q.rows - row0);
  s.q.assign(static_cast<size_t>(kQueryTile * d), 0.0f);
  s.out.assign(static_cast<size_t>(kQueryTile * d), 0.0f);
  s.max.assign(kQueryTile, kMasked);
  s.sum.assign(kQueryTile, 0.0f);
  // Rows of the tile that do not exist stay zero throughout, so that every BLAS call has the same shape.
  s.scores.assign(static_cast<size_t>(kQueryTile * kKeyTile), 0.0f);
  for (int64_t r = 0; r < rows; ++r) std::copy_n(args.q.row<float>(row0 + r) + head * d, d, &s.q[r * d]);
  const int64_t first_row = args.first_position + row0, window = args.sliding_window;
  const int64_t key_end = std::min(first_row + rows, kv.lengths[heads.kv_of(head)]);
  // The tile with the first key that any of the rows sees.
  const int64_t first_key = window > 0 ? std::max<int64_t>(0, first_row + 1 - window) / kKeyTile * kKeyTile : 0;
  for (int64_t key0 = first_key; key0 < key_end; key0 += kKeyTile)
    attend_keys(kv, heads.kv_of(head), key0, std::min(kKeyTile, key_end - key0), first_row, rows, args, s);
  for (int64_t r = 0; r < rows; ++r) {
    float* to = args.out.row<float>(row0 + r) + head * d;
    float inverse = 1.0f / s.sum[r];
    for (int64_t c = 0; c < d; ++c) to[c] = s.out[r * d + c] * inverse;
    if (args.lse != nullptr) args.lse[head * args.lse_ld + row0 + r] = s.max[r] + std::log(s.sum[r]);
  }
}

}  // namespace

void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads) {
  int64_t tiles = (args.q.rows + kQueryTile - 1) / kQueryTile;
  // Later tiles see more keys: start with them, so that the threads end together.
  ctx.parallel_for(tiles * heads.Hq_lc(), [&](int64_t item) {
    thread_local Scratch scratch;
    int64_t tile = tiles - 1 - item / heads.Hq_lc();
    attend_tile(args, kv, heads, item % heads.Hq_lc(), tile * kQueryTile, scratch);
  });
}

}  // namespace restkv::cpu
