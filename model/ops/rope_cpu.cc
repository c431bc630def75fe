#include "model/ops/dispatch.h"
#include "model/ops/rope.h"

namespace restkv::cpu {

void apply_rope(Context& ctx, const MatrixView& x, int64_t d, const float* table) {
  int64_t half = d / 2, heads = x.cols / d;
  parallel_rows(ctx, x.rows, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* cos = table + 2 * r * half;
      const float* sin = cos + half;
      for (int64_t h = 0; h < heads; ++h) {
        float* low = x.row<float>(r) + h * d;
        float* high = low + half;
        for (int64_t i = 0; i < half; ++i) {
          float a = low[i], b = high[i];
          low[i] = a * cos[i] - b * sin[i];
          high[i] = b * cos[i] + a * sin[i];
        }
      }
    }
  });
}

}  // namespace restkv::cpu
