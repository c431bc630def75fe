#include <cmath>

#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/ops/merge_attention.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

struct Arguments {
  const __nv_bfloat16* part;
  int64_t part_ld;
  const float* part_lse;
  int64_t part_lse_ld;
  float* total;
  int64_t total_ld;
  float* total_lse;
  int64_t total_lse_ld;
  __nv_bfloat16* result;  // null: into total
  int64_t result_ld;
  int heads, d;
  bool is_empty;
};

// One block a row. The weights of all heads come first: every thread needs those that were there before the update.
__global__ void __launch_bounds__(kThreads) merge_kernel(Arguments a) {
  extern __shared__ float weights[];  // [heads] of the total, [heads] of the part
  const int64_t row = blockIdx.x;
  for (int h = threadIdx.x; h < a.heads; h += kThreads) {
    float* lse = a.total_lse + h * a.total_lse_ld + row;
    const float before = a.is_empty ? -INFINITY : *lse, added = a.part_lse[h * a.part_lse_ld + row];
    const float highest = fmaxf(before, added);
    // exp(-inf + inf) would be no number.
    const float keep = before == -INFINITY ? 0.0f : expf(before - highest);
    const float take = added == -INFINITY ? 0.0f : expf(added - highest);
    const float sum = keep + take;
    *lse = sum > 0.0f ? highest + logf(sum) : -INFINITY;
    weights[h] = sum > 0.0f ? keep / sum : 0.0f;
    weights[a.heads + h] = sum > 0.0f ? take / sum : 0.0f;
  }
  __syncthreads();
  const int cols = a.heads * a.d;
  for (int c = threadIdx.x * 8; c < cols; c += kThreads * 8) {
    const int h = c / a.d;  // eight neighbours are of one head: d is a multiple of 8
    const float keep = weights[h], take = weights[a.heads + h];
    float* total = a.total + row * a.total_ld + c;
    float o[8], t[8] = {};
    load_floats(a.part + row * a.part_ld + c, o);
    // What a weight of zero stands before may be anything.
    if (keep > 0.0f) load_floats(total, t);
#pragma unroll
    for (int i = 0; i < 8; ++i) t[i] = keep * t[i] + (take > 0.0f ? take * o[i] : 0.0f);
    if (a.result != nullptr)
      store_floats(a.result + row * a.result_ld + c, t);
    else
      store_floats(total, t);
  }
}

}  // namespace

void merge_attention(Context& ctx, const AttentionPart& part, const AttentionTotal& total, int64_t d,
                     const MatrixView& result) {
  RESTKV_CHECK(part.out.dtype == DType::bf16, "merge_attention on a GPU: a part in {}; bf16 needed",
               name_of(part.out.dtype));
  RESTKV_CHECK(d % 8 == 0 && part.out.ld % 8 == 0 && total.out.ld % 8 == 0 && result.ld % 8 == 0,
               "merge_attention on a GPU: heads of {}, rows of {}, {} and {} (multiples of 8)", d, part.out.ld,
               total.out.ld, result.ld);
  const auto heads = static_cast<int>(part.out.cols / d);
  Arguments a{part.out.row<__nv_bfloat16>(0),
              part.out.ld,
              part.lse,
              part.lse_ld,
              total.out.row<float>(0),
              total.out.ld,
              total.lse,
              total.lse_ld,
              result.rows > 0 ? result.row<__nv_bfloat16>(0) : nullptr,
              result.ld,
              heads,
              static_cast<int>(d),
              total.is_empty};
  merge_kernel<<<static_cast<unsigned>(part.out.rows), kThreads, static_cast<size_t>(2 * heads) * sizeof(float),
                 stream_of(ctx)>>>(a);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
