#include "dist/base/gemm.h"

#include <algorithm>

#include "dist/base/error.h"
#include "dist/base/gemm_cpu.h"
#include "dist/base/gemm_gpu.h"

namespace restkv {
namespace {

void check_operands(const Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y) {
  RESTKV_CHECK(x.cols == w.cols && y.cols == w.rows && y.rows == x.rows,
               "x [{}, {}] times w [{}, {}] transposed into y [{}, {}]", x.rows, x.cols, w.rows, w.cols, y.rows,
               y.cols);
  RESTKV_CHECK(x.ld >= x.cols && w.ld >= w.cols && y.ld >= y.cols,
               "leading dimensions {}, {}, {} below the columns {}, {}, {}", x.ld, w.ld, y.ld, x.cols, w.cols, y.cols);
  if (ctx.device() == Device::gpu) return;  // gemm_gpu.cu says which dtypes it takes
  RESTKV_CHECK(x.dtype == DType::f32 && y.dtype == DType::f32, "x is {}, y is {}; f32 needed", name_of(x.dtype),
               name_of(y.dtype));
  RESTKV_CHECK(w.dtype == DType::f32 || w.dtype == DType::bf16, "w is {}; f32 or bf16 needed", name_of(w.dtype));
}

// Whether there is nothing to multiply; then y is complete.
bool is_trivial(Context& ctx, const MatrixView& x, const MatrixView& y, bool accumulate) {
  if (y.rows == 0 || y.cols == 0) return true;
  if (x.cols > 0) return false;
  // BLAS has no leading dimension of 0, which is what matrices without columns have.
  for (int64_t r = 0; r < y.rows && !accumulate; ++r) {
    char* row = static_cast<char*>(y.data) + r * y.ld * size_of(y.dtype);
    ctx.fill_zero(row, y.cols * size_of(y.dtype));
  }
  return true;
}

}  // namespace

MatrixView::MatrixView(const Tensor& tensor)
    : data(tensor.raw()),
      dtype(tensor.dtype()),
      rows(tensor.shape().back() == 0 ? 0 : tensor.numel() / tensor.shape().back()),
      cols(tensor.shape().back()),
      ld(cols) {}

MatrixView MatrixView::block(int64_t r0, int64_t nr, int64_t c0, int64_t nc) const {
  RESTKV_CHECK(r0 >= 0 && c0 >= 0 && r0 + nr <= rows && c0 + nc <= cols, "block [{}+{}, {}+{}] of [{}, {}]", r0, nr, c0,
               nc, rows, cols);
  char* start = static_cast<char*>(data) + (r0 * ld + c0) * size_of(dtype);
  return {start, dtype, nr, nc, ld};
}

void gemm(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate) {
  check_operands(ctx, x, w, y);
  if (is_trivial(ctx, x, y, accumulate)) return;
  if (ctx.device() == Device::gpu) return gemm_gpu(ctx, x, w, y, accumulate);
  gemm_cpu(ctx, x, w, y, accumulate);
}

void gemv(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate) {
  check_operands(ctx, x, w, y);
  if (is_trivial(ctx, x, y, accumulate)) return;
  if (ctx.device() == Device::gpu) return gemm_gpu(ctx, x, w, y, accumulate);
  gemv_cpu(ctx, x, w, y, accumulate);
}

}  // namespace restkv
