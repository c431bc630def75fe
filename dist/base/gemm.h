// Matrix products with a weight stored as checkpoints store it: w [n, k], one row per output.
#pragma once

#include "dist/base/context.h"

namespace restkv {

/// A row-major matrix in memory that lives elsewhere; row r starts at data + r * ld elements.
struct MatrixView {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ld = 0;

  MatrixView() = default;
  MatrixView(void* data_, DType dtype_, int64_t rows_, int64_t cols_, int64_t ld_)
      : data(data_), dtype(dtype_), rows(rows_), cols(cols_), ld(ld_) {}
  MatrixView(const float* data_, int64_t rows_, int64_t cols_, int64_t ld_ = 0)
      : data(const_cast<float*>(data_)), rows(rows_), cols(cols_), ld(ld_ == 0 ? cols_ : ld_) {}
  /// A tensor seen as [rows, cols] with cols its last extent.
  explicit MatrixView(const Tensor& tensor);

  /// Row r; T is the dtype's C++ type (not checked: this stands in inner loops).
  template <class T>
  T* row(int64_t r) const {
    return static_cast<T*>(data) + r * ld;
  }

  /// Rows [r0, r0 + nr) and columns [c0, c0 + nc).
  MatrixView block(int64_t r0, int64_t nr, int64_t c0, int64_t nc) const;
};

/// y[m, n] = x[m, k] * w[n, k]^T, or y += with `accumulate`. x and y are f32, w is f32 or bf16; sums in f32.
/// For many rows (prefill). Row i of y depends only on row i of x and on w: the rows are cut into tiles of one fixed
/// size, so the same row gives the same bits whatever else is in the batch, on any layout and number of threads.
void gemm(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate = false);

/// The same product for few rows (decode): reads w once, bound by memory bandwidth.
void gemv(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate = false);

}  // namespace restkv
