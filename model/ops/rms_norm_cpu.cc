#include <cmath>

#include "dist/base/lanes.h"
#include "model/ops/dispatch.h"
#include "model/ops/rms_norm.h"

namespace restkv::cpu {
namespace {

float sum_of_squares(const float* x, int64_t n) {
  Lanes acc[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    Lanes a = load_lanes(x + i), b = load_lanes(x + i + kLanes);
    acc[0] += a * a;
    acc[1] += b * b;
  }
  float sum = sum_lanes(acc[0] + acc[1]);
  for (; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

}  // namespace

void rms_norm(Context& ctx, const MatrixView& x, const float* w, const MatrixView& y, double eps) {
  int64_t H = x.cols;
  parallel_rows(ctx, x.rows, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* from = x.row<float>(r);
      float* to = y.row<float>(r);
      float scale = 1.0f / std::sqrt(sum_of_squares(from, H) / static_cast<float>(H) + static_cast<float>(eps));
      for (int64_t i = 0; i < H; ++i) to[i] = from[i] * scale * w[i];
    }
  });
}

}  // namespace restkv::cpu
