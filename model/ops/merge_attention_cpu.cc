#include <algorithm>
#include <cmath>
#include <limits>

#include "model/ops/dispatch.h"
#include "model/ops/merge_attention.h"

namespace restkv::cpu {

void merge_attention(Context& ctx, const AttentionPart& part, const AttentionTotal& total, int64_t d,
                     const MatrixView& result) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const MatrixView& to = result.rows > 0 ? result : total.out;
  const int64_t heads = part.out.cols / d;
  parallel_rows(ctx, part.out.rows, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t h = 0; h < heads; ++h) {
        float* total_lse = total.lse + h * total.lse_ld + r;
        const float before = total.is_empty ? kNone : *total_lse, added = part.lse[h * part.lse_ld + r];
        const float highest = std::max(before, added);
        // exp(-inf + inf) would be no number.
        float keep = before == kNone ? 0.0f : std::exp(before - highest);
        float take = added == kNone ? 0.0f : std::exp(added - highest);
        const float sum = keep + take;
        *total_lse = sum > 0.0f ? highest + std::log(sum) : kNone;
        if (sum > 0.0f) keep /= sum, take /= sum;
        const float* o = part.out.row<float>(r) + h * d;
        const float* t = total.out.row<float>(r) + h * d;
        float* y = to.row<float>(r) + h * d;
        // What a weight of zero stands before may be anything.
        for (int64_t c = 0; c < d; ++c) y[c] = (keep > 0.0f ? keep * t[c] : 0.0f) + (take > 0.0f ? take * o[c] : 0.0f);
      }
  });
}

}  // namespace restkv::cpu
