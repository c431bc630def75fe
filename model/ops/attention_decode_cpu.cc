#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "dist/base/error.h"
#include "dist/base/lanes.h"
#include "model/ops/attention_decode.h"

namespace restkv::cpu {
namespace {

// Keys per item. Fixed, so that the order of sums does not depend on the number of threads.
constexpr int64_t kSplit = 512;
constexpr float kNone = -std::numeric_limits<float>::infinity();

float dot(const float* a, const float* b, int64_t n) {
  Lanes acc = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) acc += load_lanes(a + i) * load_lanes(b + i);
  float sum = sum_lanes(acc);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

struct Split {
  int64_t query_head, first, last;
};

// Normalised output and log-sum-exp of one query head over keys [first, last); zeros and -inf where all are masked.
void attend_split(const DecodeAttention& args, const KvView& kv, const Split& split, float* out, float* lse) {
  thread_local std::vector<float> scores;
  int64_t d = kv.d, n = split.last - split.first, cache_head = args.head[split.query_head];
  const float* q = args.q + split.query_head * d;
  const float* k = kv.k_head<float>(cache_head) + split.first * kv.row_stride;
  const float* v = kv.v_head<float>(cache_head) + split.first * kv.row_stride;
  const int32_t* positions = nullptr;
  if (args.first_position > 0) positions = kv.positions + kv.head_offset[cache_head] / kv.row_stride + split.first;
  auto hidden = [&](int64_t i) { return positions != nullptr && positions[i] < args.first_position; };
  scores.resize(static_cast<size_t>((n + kLanes - 1) / kLanes * kLanes));
  float highest = kNone;
  const auto cap = static_cast<float>(args.softcap);
  for (int64_t i = 0; i < n; ++i) {
    scores[i] = hidden(i) ? kNone : dot(q, k + i * kv.row_stride, d) * static_cast<float>(args.scale);
    if (cap > 0.0f && scores[i] != kNone) scores[i] = cap * std::tanh(scores[i] / cap);
    highest = std::max(highest, scores[i]);
  }
  std::fill_n(out, d, 0.0f);
  *lse = kNone;
  if (highest == kNone) return;
  std::fill(scores.begin() + n, scores.end(), kNone);
  Lanes total = {};
  for (size_t i = 0; i < scores.size(); i += kLanes) {
    Lanes p = exp_lanes(load_lanes(&scores[i]) - highest);
    store_lanes(&scores[i], p);
    total += p;
  }
  float sum = sum_lanes(total);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < d && !hidden(i); ++c) out[c] += scores[i] * v[i * kv.row_stride + c];
  for (int64_t c = 0; c < d; ++c) out[c] /= sum;
  *lse = highest + std::log(sum);
}

// Folds (out_b, lse_b) into (out_a, lse_a).
void fold(float* out_a, float* lse_a, const float* out_b, float lse_b, int64_t d) {
  if (lse_b == kNone) return;
  if (*lse_a == kNone) {
    std::copy_n(out_b, d, out_a);
    *lse_a = lse_b;
    return;
  }
  float high = std::max(*lse_a, lse_b);
  float merged = high + std::log(std::exp(*lse_a - high) + std::exp(lse_b - high));
  float a = std::exp(*lse_a - merged), b = std::exp(lse_b - merged);
  for (int64_t c = 0; c < d; ++c) out_a[c] = out_a[c] * a + out_b[c] * b;
  *lse_a = merged;
}

}  // namespace

void attention_decode(Context& ctx, const DecodeAttention& args, const KvView& kv) {
  int64_t d = kv.d;
  std::vector<Split> splits;
  for (int64_t h = 0; h < args.Hq_lc; ++h)
    for (int64_t first = 0; first < kv.lengths[args.head[h]]; first += kSplit)
      splits.push_back({h, first, std::min(first + kSplit, kv.lengths[args.head[h]])});
  RESTKV_CHECK(args.first_position == 0 || splits.empty() || kv.positions != nullptr, "a mask of unknown positions");
  std::vector<float> out(splits.size() * static_cast<size_t>(d)), lse(splits.size());
  ctx.parallel_for(static_cast<int64_t>(splits.size()),
                   [&](int64_t i) { attend_split(args, kv, splits[i], &out[i * d], &lse[i]); });
  std::fill_n(args.out, args.Hq_lc * d, 0.0f);
  std::fill_n(args.lse, args.Hq_lc, kNone);
  for (size_t i = 0; i < splits.size(); ++i) {
    int64_t h = splits[i].query_head;
    fold(args.out + h * d, args.lse + h, &out[i * d], lse[i], d);
  }
}

void merge_partial_attention(const float* out, const float* lse, int64_t parts, int64_t Hq_lc, int64_t d,
                             float* merged) {
  std::fill_n(merged, Hq_lc * d, 0.0f);
  for (int64_t h = 0; h < Hq_lc; ++h) {
    float total = kNone;
    for (int64_t part = 0; part < parts; ++part)
      fold(merged + h * d, &total, out + (part * Hq_lc + h) * d, lse[part * Hq_lc + h], d);
  }
}

}  // namespace restkv::cpu
