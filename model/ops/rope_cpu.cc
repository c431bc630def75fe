#include "model/ops/dispatch.h"
#include "model/ops/rope.h"

namespace restkv::cpu {

void apply_rope(Context& ctx, float* x, int64_t row_stride, int64_t heads, int64_t d, const float* table, int64_t n) {
  int64_t half = d / 2;
  parallel_rows(ctx, n, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* cos = table + 2 * r * half;
      const float* sin = cos + half;
      for (int64_t h = 0; h < heads; ++h) {
        float* low = x + r * row_stride + h * d;
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
