#include <cstring>

#include "kvcache/cpu/lane_tile.h"
#include "kvcache/cpu/softmax_lanes.h"
#include "kvcache/statistics/window_output.h"

namespace restkv::cpu {
namespace {

// Positions whose weights and values are in the cache together.
constexpr int64_t kRun = 128;

// out [rows, d] += weights [rows, count] * v rows [count, d], positions ascending. Here the lanes run over d.
class ValueProduct {
 public:
  ValueProduct(int64_t rows, int64_t d)
      : rows_(rows), d_(d), padded_(round_up_to_panel(d)), sum_(rows * padded_), values_(kRun * padded_) {
    std::fill_n(sum_.get(), rows * padded_, 0.0f);
    std::fill_n(values_.get(), kRun * padded_, 0.0f);
  }

  void add(const float* weights, int64_t weight_stride, const float* v, int64_t v_stride, int64_t count) {
    if (padded_ != d_) {  // whole panels of a short row would read past its end
      for (int64_t i = 0; i < count; ++i) std::memcpy(values_ + i * padded_, v + i * v_stride, sizeof(float) * d_);
      v = values_.get();
      v_stride = padded_;
    }
    for (int64_t c = 0; c < padded_; c += kPanel)
      multiply_panel(weights, weight_stride, rows_, v + c, v_stride, count, sum_ + c, padded_, true);
  }

  void write(float* out) const {
    for (int64_t r = 0; r < rows_; ++r) std::memcpy(out + r * d_, sum_ + r * padded_, sizeof(float) * d_);
  }

 private:
  int64_t rows_, d_, padded_;
  TileBuffer sum_, values_;
};

}  // namespace

void past_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* a,
                          const float* v, float* partials) {
  const int64_t d = heads.d, Hkv_lc = heads.Hkv_lc(), blocks = static_cast<int64_t>(shard.blocks.size());
  ctx.parallel_for(blocks * Hkv_lc, [&](int64_t item) {
    const int64_t b = item / Hkv_lc, g = item % Hkv_lc;
    const Segment& block = shard.blocks[b];
    const Range h = heads.query_heads_of(g);
    const int64_t past = std::clamp<int64_t>(shard.P - block.global, 0, block.count);
    ValueProduct product(h.size(), d);
    for (int64_t i = 0; i < past; i += kRun) {
      const int64_t local = block.local + i;
      product.add(a + h.begin * shard.stride + local, shard.stride, v + (local * Hkv_lc + g) * d, Hkv_lc * d,
                  std::min(kRun, past - i));
    }
    product.write(partials + (b * heads.Hq_lc() + h.begin) * d);
  });
}

void window_output_partials(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                            const float* softmax, const float* v, float* partials) {
  const int64_t d = heads.d, W = shard.W, Hkv_lc = heads.Hkv_lc(), stride = shard.stride;
  const int64_t blocks = static_cast<int64_t>(shard.blocks.size());
  const RowSoftmax* row_softmax = reinterpret_cast<const RowSoftmax*>(softmax);
  ctx.parallel_for(blocks * Hkv_lc, [&](int64_t item) {
    const int64_t b = item / Hkv_lc, g = item % Hkv_lc;
    const Segment& block = shard.blocks[b];
    const Range h = heads.query_heads_of(g);
    const int64_t row0 = h.begin * W, rows = h.size() * W;
    ValueProduct product(rows, d);
    TileBuffer weights(rows * kRun);
    for (int64_t i = 0; i < block.count; i += kRun) {
      const int64_t local = block.local + i, count = std::min(kRun, block.count - i);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < count; j += kLanes)
          store_lanes(weights + r * kRun + j,
                      softmax_lanes(load_lanes(logits + (row0 + r) * stride + local + j), row_softmax[row0 + r]));
      product.add(weights.get(), kRun, v + (local * Hkv_lc + g) * d, Hkv_lc * d, count);
    }
    product.write(partials + (b * heads.Hq_lc() * W + row0) * d);
  });
}

void fold_outputs(Context& ctx, const float* gathered, const std::vector<int64_t>& slot, int64_t rows, int64_t d,
                  float* output) {
  ctx.parallel_for(rows, [&](int64_t row) {
    std::vector<double> sum(static_cast<size_t>(d), 0.0);
    for (int64_t s : slot) {
      const float* partial = gathered + (s * rows + row) * d;
      for (int64_t k = 0; k < d; ++k) sum[k] += static_cast<double>(partial[k]);
    }
    for (int64_t k = 0; k < d; ++k) output[row * d + k] = static_cast<float>(sum[k]);
  });
}

}  // namespace restkv::cpu
