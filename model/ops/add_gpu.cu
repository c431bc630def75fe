#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/ops/add.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

template <class X, class Y>
__global__ void __launch_bounds__(kThreads) add_kernel(X* x, int64_t x_ld, const Y* y, int64_t y_ld, int cols) {
  int64_t row = blockIdx.x;
  for (int c = threadIdx.x * 8; c < cols; c += kThreads * 8) {
    float a[8], b[8];
    load_floats(x + row * x_ld + c, a);
    load_floats(y + row * y_ld + c, b);
#pragma unroll
    for (int i = 0; i < 8; ++i) a[i] += b[i];
    store_floats(x + row * x_ld + c, a);
  }
}

}  // namespace

void add(Context& ctx, const MatrixView& x, const MatrixView& y) {
  auto known = [](DType dtype) { return dtype == DType::bf16 || dtype == DType::f32; };
  RESTKV_CHECK(known(x.dtype) && known(y.dtype), "add on a GPU: {} += {}; bf16 or f32 needed", name_of(x.dtype),
               name_of(y.dtype));
  RESTKV_CHECK(x.cols % 8 == 0 && x.ld % 8 == 0 && y.ld % 8 == 0, "add on a GPU: rows of {} (multiples of 8)", x.cols);
  if (x.rows == 0) return;
  auto run = [&](auto* to, const auto* from) {
    add_kernel<<<static_cast<unsigned>(x.rows), kThreads, 0, stream_of(ctx)>>>(to, x.ld, from, y.ld,
                                                                               static_cast<int>(x.cols));
  };
  auto run_into = [&](auto* to) {
    if (y.dtype == DType::f32)
      run(to, y.row<float>(0));
    else
      run(to, y.row<__nv_bfloat16>(0));
  };
  if (x.dtype == DType::f32)
    run_into(x.row<float>(0));
  else
    run_into(x.row<__nv_bfloat16>(0));
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
