#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/ops/add.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    add_kernel(__nv_bfloat16* x, int64_t x_ld, const __nv_bfloat16* y, int64_t y_ld, int cols) {
  int64_t row = blockIdx.x;
  for (int c = threadIdx.x * 8; c < cols; c += kThreads * 8) {
    float a[8], b[8];
    unpack(load8(x + row * x_ld + c), a);
    unpack(load8(y + row * y_ld + c), b);
#pragma unroll
    for (int i = 0; i < 8; ++i) a[i] += b[i];
    store8(x + row * x_ld + c, pack(a));
  }
}

}  // namespace

void add(Context& ctx, const MatrixView& x, const MatrixView& y) {
  RESTKV_CHECK(x.dtype == DType::bf16 && y.dtype == DType::bf16, "add on a GPU: {} += {}, bf16 needed",
               name_of(x.dtype), name_of(y.dtype));
  RESTKV_CHECK(x.cols % 8 == 0 && x.ld % 8 == 0 && y.ld % 8 == 0, "add on a GPU: rows of {} (multiples of 8)", x.cols);
  if (x.rows == 0) return;
  add_kernel<<<static_cast<unsigned>(x.rows), kThreads, 0, stream_of(ctx)>>>(
      x.row<__nv_bfloat16>(0), x.ld, y.row<__nv_bfloat16>(0), y.ld, static_cast<int>(x.cols));
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
