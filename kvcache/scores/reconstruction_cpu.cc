#include <cmath>

#include "kvcache/cpu/lane_tile.h"
#include "kvcache/cpu/row_reduction.h"
#include "kvcache/cpu/softmax_lanes.h"
#include "kvcache/scores/reconstruction.h"

namespace restkv::cpu {
namespace {

// Panels per work item: enough to make an item coarse.
constexpr int64_t kPanelsPerItem = 4;

struct Panels {
  int64_t first, last;  // local positions [first, last), first a multiple of kPanel
};

// Calls body(g, panels) for all local KV heads and runs of panels, in parallel. The padding behind the last local
// position belongs to the last panel.
template <class F>
void for_panel_runs(Context& ctx, const HeadLayout& heads, const LocalShard& shard, F&& body) {
  const int64_t run = kPanelsPerItem * kPanel, runs = (shard.L_lc + run - 1) / run, Hkv_lc = heads.Hkv_lc();
  ctx.parallel_for(runs * Hkv_lc, [&](int64_t item) {
    int64_t first = item / Hkv_lc * run;
    body(item % Hkv_lc, Panels{first, std::min(first + run, shard.L_lc)});
  });
}

RESTKV_INLINE Lanes odds(Lanes a) { return a / max_lanes(1.0f - a, broadcast_lanes(kSmallestRest)); }

// x^tau for norms. Not vectorised: tau is 1 in nearly every run.
Lanes power_lanes(Lanes x, double tau) {
  if (tau == 1.0) return x;
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(std::pow(static_cast<double>(x[i]), tau));
  return x;
}

// Squared norms of the panel's columns x [d, kPanel], after the factor r [d, d] when there is one.
RESTKV_INLINE void squared_norms(const float* r, const float* x, int64_t d, Lanes (&out)[2]) {
  out[0] = out[1] = Lanes{};
  if (r == nullptr) {
    for (int64_t k = 0; k < d; ++k)
      for (int v = 0; v < 2; ++v) {
        Lanes e = load_lanes(x + k * kPanel + v * kLanes);
        out[v] += e * e;
      }
    return;
  }
  for_row_blocks(d, [&](auto block, int64_t r0) {
    constexpr int R = decltype(block)::value;
    Lanes y[R][2] = {};
    // Row r0 of an upper triangular factor starts at column r0; the zeros inside the row block cost less than a test.
    multiply_rows<R>(r + r0 * d, d, x, kPanel, r0, d, y);
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < 2; ++v) out[v] += y[i][v] * y[i][v];
  });
}

// y [d, kPanel] = r x, or a copy without a factor.
void apply_factor(const float* r, const float* x, int64_t d, float* y) {
  if (r == nullptr) {
    std::copy_n(x, d * kPanel, y);
    return;
  }
  for_row_blocks(d, [&](auto block, int64_t r0) {
    constexpr int R = decltype(block)::value;
    Lanes sum[R][2] = {};
    multiply_rows<R>(r + r0 * d, d, x, kPanel, r0, d, sum);
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < 2; ++v) store_lanes(y + (r0 + i) * kPanel + v * kLanes, sum[i][v]);
  });
}

// c [rows, d] = r o for the rows of o [rows, d], and their norms. By the same kernel as r v: where one position takes
// all attention, o is v bit for bit, and their difference must be zero.
void transform_outputs(const float* r, const float* o, int64_t rows, int64_t d, float* c, float* norm) {
  TileBuffer panel(d * kPanel), y(d * kPanel);
  for (int64_t first = 0; first < rows; first += kPanel) {
    const int64_t count = std::min(kPanel, rows - first);
    pack_panel(o + first * d, d, count, d, panel.get());
    apply_factor(r, panel.get(), d, y.get());
    for (int64_t j = 0; j < count; ++j) {
      float sum = 0.0f;
      for (int64_t k = 0; k < d; ++k) {
        const float value = y[k * kPanel + j];
        c[(first + j) * d + k] = value;
        sum += value * value;
      }
      norm[first + j] = std::sqrt(sum);
    }
  }
}

// distance[w] = ||c_w - y_j|| for the panel's columns y_j.
void panel_distances(const float* c, int64_t rows, const float* y, int64_t d, float* distance) {
  for_row_blocks(rows, [&](auto block, int64_t w0) {
    constexpr int R = decltype(block)::value;
    Lanes sum[R][2] = {};
    for (int64_t k = 0; k < d; ++k) {
      Lanes y0 = load_lanes(y + k * kPanel), y1 = load_lanes(y + k * kPanel + kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        Lanes x = broadcast_lanes(c[(w0 + i) * d + k]);
        sum[i][0] += (x - y0) * (x - y0);
        sum[i][1] += (x - y1) * (x - y1);
      }
    }
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < 2; ++v) store_lanes(distance + (w0 + i) * kPanel + v * kLanes, sqrt_lanes(sum[i][v]));
  });
}

}  // namespace

void reconstruction_after(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* o, const float* v, const float* r, double tau, float* s) {
  const int64_t d = heads.d, Hkv_lc = heads.Hkv_lc();
  for_panel_runs(ctx, heads, shard, [&](int64_t g, Panels run) {
    TileBuffer values(d * kPanel), e(d * kPanel);
    const Range group = heads.query_heads_of(g);
    for (int64_t i = run.first; i < run.last; i += kPanel) {
      pack_panel(v + (i * Hkv_lc + g) * d, Hkv_lc * d, std::min(kPanel, run.last - i), d, values.get());
      for (int64_t h = group.begin; h < group.end; ++h) {
        // Subtract before anything is squared: v close to o is where the weight is large.
        for (int64_t k = 0; k < d; ++k)
          for (int64_t j = 0; j < kPanel; j += kLanes)
            store_lanes(e + k * kPanel + j, o[h * d + k] - load_lanes(values + k * kPanel + j));
        Lanes squared[2];
        squared_norms(r == nullptr ? nullptr : r + h * d * d, e.get(), d, squared);
        for (int half = 0; half < 2; ++half) {
          const int64_t at = h * shard.stride + i + half * kLanes;
          store_lanes(s + at, odds(load_lanes(a + at)) * power_lanes(sqrt_lanes(squared[half]), tau));
        }
      }
    }
  });
}

void reconstruction_before(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                           const float* softmax, const float* o, const float* v, const float* r,
                           const BeforeOptions& options, float* s) {
  const int64_t d = heads.d, W = shard.W, Hq_lc = heads.Hq_lc(), Hkv_lc = heads.Hkv_lc(), stride = shard.stride;
  const LaneReduction reduce(options.temporal, options.alpha, W);
  const RowSoftmax* row_softmax = reinterpret_cast<const RowSoftmax*>(softmax);
  // ||R (o_w - v)|| for W outputs as ||R o_w - R v||: R v once instead of W times. The difference is still taken
  // before squaring; its rounding is that of o_w itself.
  TileBuffer c(Hq_lc * W * d), scale(Hq_lc * W);
  ctx.parallel_for(Hq_lc, [&](int64_t h) {
    float* row_scale = scale + h * W;
    transform_outputs(r == nullptr ? nullptr : r + h * d * d, o + h * W * d, W, d, c + h * W * d, row_scale);
    for (int64_t w = 0; w < W; ++w)
      row_scale[w] = options.normalize && row_scale[w] > 0.0f ? 1.0f / row_scale[w] : 1.0f;
  });
  for_panel_runs(ctx, heads, shard, [&](int64_t g, Panels run) {
    TileBuffer values(d * kPanel), y(d * kPanel), distance(W * kPanel);
    const Range group = heads.query_heads_of(g);
    for (int64_t i = run.first; i < run.last; i += kPanel) {
      pack_panel(v + (i * Hkv_lc + g) * d, Hkv_lc * d, std::min(kPanel, run.last - i), d, values.get());
      for (int64_t h = group.begin; h < group.end; ++h) {
        apply_factor(r == nullptr ? nullptr : r + h * d * d, values.get(), d, y.get());
        panel_distances(c + h * W * d, W, y.get(), d, distance.get());
        for (int64_t half = 0; half < kPanel; half += kLanes) {
          Lanes state = {};
          for (int64_t w = 0; w < W; ++w) {
            const int64_t row = h * W + w;
            Lanes weight = odds(softmax_lanes(load_lanes(logits + row * stride + i + half), row_softmax[row]));
            Lanes x = weight * load_lanes(distance + w * kPanel + half) * scale[row];
            state = reduce.add(state, x, w);
          }
          store_lanes(s + h * stride + i + half, reduce.finish(state));
        }
      }
    }
  });
}

}  // namespace restkv::cpu
