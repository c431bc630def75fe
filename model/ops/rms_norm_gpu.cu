#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/ops/rms_norm.h"

namespace restkv::gpu {
namespace {

// One block per row. The row stays in registers between the sum and the scaling when H <= 8 * kPerThread * threads.
constexpr int kThreads = 256;
constexpr int kPerThread = 4;

__global__ void __launch_bounds__(kThreads) rms_norm_kernel(const __nv_bfloat16* x, int64_t x_ld, const float* w,
                                                            __nv_bfloat16* y, int64_t y_ld, int H, float eps) {
  __shared__ float scratch[32];
  const __nv_bfloat16* from = x + blockIdx.x * x_ld;
  __nv_bfloat16* to = y + blockIdx.x * y_ld;
  float values[kPerThread][8];
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    int c = (j * kThreads + threadIdx.x) * 8;
    if (c >= H) break;
    unpack(load8(from + c), values[j]);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += values[j][i] * values[j][i];
  }
  float scale = rsqrtf(block_sum(sum, scratch) / static_cast<float>(H) + eps);
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    int c = (j * kThreads + threadIdx.x) * 8;
    if (c >= H) break;
#pragma unroll
    for (int i = 0; i < 8; ++i) values[j][i] *= scale * w[c + i];
    store8(to + c, pack(values[j]));
  }
}

}  // namespace

void rms_norm(Context& ctx, const MatrixView& x, const float* w, const MatrixView& y, double eps) {
  RESTKV_CHECK(x.dtype == DType::bf16 && y.dtype == DType::bf16, "rms_norm on a GPU: {} into {}, bf16 needed",
               name_of(x.dtype), name_of(y.dtype));
  RESTKV_CHECK(x.cols % 8 == 0 && x.cols <= 8 * kPerThread * kThreads && x.ld % 8 == 0 && y.ld % 8 == 0,
               "rms_norm on a GPU: rows of {} (multiples of 8 up to {})", x.cols, 8 * kPerThread * kThreads);
  if (x.rows == 0) return;
  rms_norm_kernel<<<static_cast<unsigned>(x.rows), kThreads, 0, stream_of(ctx)>>>(
      x.row<__nv_bfloat16>(0), x.ld, w, y.row<__nv_bfloat16>(0), y.ld, static_cast<int>(x.cols),
      static_cast<float>(eps));
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
