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

/// Rows that gemm works on at a time.
inline constexpr int64_t kGemmTileRows = 128;

/// y[m, n] = x[m, k] * w[n, k]^T, or y += with `accumulate`. On CPU ranks x and y are f32, w is f32 or bf16; on
/// GPUs x and w are bf16, y is bf16 or f32 (cuBLASLt, in stream order). Sums in f32.
/// For many rows (prefill). The bits of row i of y depend on row i of x, on w, and on i modulo kGemmTileRows, but
/// neither on the other rows nor on their number or the number of threads: tiles are always full (padded), and BLAS
/// kernels round by the place in a tile. Batches that start at multiples of kGemmTileRows of the prompt, as chunks of
/// SequencePartition and their slices do, therefore give the same bits on every layout. On GPUs: of kGemmTileRows rows
/// or more, with one algorithm for all numbers of rows up to 4096, and one for each number beyond.
void gemm(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate = false);

/// The same product for few rows (decode): reads w once, bound by memory bandwidth. Each element of y depends on its
/// row of x and its row of w alone.
void gemv(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate = false);

}  // namespace restkv
