#include "kvcache/output_factors_cpu.h"

#include <cblas.h>

#include <algorithm>
#include <vector>

#include "dist/base/error.h"

// LAPACK's Householder QR, part of OpenBLAS, which ships no header for its Fortran names.
extern "C" void dgeqrf_(const blasint* m, const blasint* n, double* a, const blasint* lda, double* tau, double* work,
                        const blasint* lwork, blasint* info);

namespace restkv {
namespace {

void qr(blasint m, blasint n, std::vector<double>& a) {
  std::vector<double> tau(static_cast<size_t>(std::min(m, n))), work(1);
  blasint lwork = -1, info = 0;
  dgeqrf_(&m, &n, a.data(), &m, tau.data(), work.data(), &lwork, &info);
  if (info == 0) {
    lwork = static_cast<blasint>(work[0]);
    work.resize(static_cast<size_t>(lwork));
    dgeqrf_(&m, &n, a.data(), &m, tau.data(), work.data(), &lwork, &info);
  }
  RESTKV_CHECK(info == 0, "dgeqrf of [{}, {}] returned {}", m, n, info);
}

// Column-major [hidden, d] in f64: the columns of one head.
template <class T>
void copy_columns(const MatrixView& wo, int64_t first, int64_t d, std::vector<double>& a) {
  for (int64_t i = 0; i < wo.rows; ++i) {
    const T* row = static_cast<const T*>(wo.data) + i * wo.ld + first;
    for (int64_t j = 0; j < d; ++j) {
      if constexpr (std::is_same_v<T, bf16>)
        a[j * wo.rows + i] = static_cast<double>(to_float(row[j]));
      else
        a[j * wo.rows + i] = static_cast<double>(row[j]);
    }
  }
}

}  // namespace

void output_factors_cpu(Context& ctx, const MatrixView& wo, int64_t heads, int64_t d, float* r) {
  ctx.parallel_for(heads, [&](int64_t h) {
    std::vector<double> a(static_cast<size_t>(wo.rows * d));
    if (wo.dtype == DType::bf16)
      copy_columns<bf16>(wo, h * d, d, a);
    else
      copy_columns<float>(wo, h * d, d, a);
    qr(static_cast<blasint>(wo.rows), static_cast<blasint>(d), a);
    float* out = r + h * d * d;
    std::fill_n(out, d * d, 0.0f);
    for (int64_t i = 0; i < std::min(d, wo.rows); ++i) {
      // Q may absorb the sign of a row; the non-negative diagonal makes R unique.
      const double sign = a[i * wo.rows + i] < 0.0 ? -1.0 : 1.0;
      for (int64_t j = i; j < d; ++j) out[i * d + j] = static_cast<float>(sign * a[j * wo.rows + i]);
    }
  });
}

}  // namespace restkv
