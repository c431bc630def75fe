#include <cmath>

#include "dist/base/mix.h"
#include "model/weights/random_fill.h"

namespace restkv {

void random_rows(const RandomElements& e, DType dtype, void* dst) {
  int64_t at = 0;
  for (int64_t r = e.rows.begin; r < e.rows.end; ++r)
    for (int64_t c = e.cols.begin; c < e.cols.end; ++c, ++at) {
      uint64_t word = mix64(e.key + static_cast<uint64_t>(r * e.width + c));
      auto u = static_cast<float>(unit_interval(word) * 2.0 - 1.0);
      // One rounding, written out: whether a compiler fuses a product and a sum must not change the weights.
      bf16 value = to_bf16(std::fma(e.half_width, u, e.center));
      if (dtype == DType::f32)
        static_cast<float*>(dst)[at] = to_float(value);
      else
        static_cast<bf16*>(dst)[at] = value;
    }
}

}  // namespace restkv
