#include "dist/base/gemm_cpu.h"

#include <cblas.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "dist/base/lanes.h"

namespace restkv {
namespace {

// Rows of x per BLAS call, always exactly this many (the last tile is padded): OpenBLAS chooses other inner kernels
// for other row counts, and those round differently. Its Haswell and Zen kernels round differently even between places
// of one tile, so the place of a row is part of the promise in gemm.h.
constexpr int64_t kTileRows = kGemmTileRows;
// Rows of w per BLAS call; bounds the f32 copy of a bf16 panel to what the second-level cache holds.
constexpr int64_t kPanelRows = 256;

const float* row_f32(const MatrixView& m, int64_t row) { return static_cast<const float*>(m.data) + row * m.ld; }

// Rows [first, first + count) of w as f32 with leading dimension *ld: the weight itself, or a widened copy.
const float* panel_f32(const MatrixView& w, int64_t first, int64_t count, std::vector<float>& copy, int64_t* ld) {
  if (w.dtype == DType::f32) {
    *ld = w.ld;
    return row_f32(w, first);
  }
  copy.resize(static_cast<size_t>(count * w.cols));
  for (int64_t r = 0; r < count; ++r) {
    const bf16* from = static_cast<const bf16*>(w.data) + (first + r) * w.ld;
    float* to = copy.data() + r * w.cols;
    for (int64_t c = 0; c < w.cols; ++c) to[c] = to_float(from[c]);
  }
  *ld = w.cols;
  return copy.data();
}

struct TileScratch {
  std::vector<float> panel, x, y;
};

// y tile = x tile * panel^T for kTileRows rows, of which `rows` exist.
void multiply_tile(const MatrixView& x, int64_t first, int64_t rows, const float* panel, int64_t panel_ld, int64_t n,
                   float* y, int64_t y_ld, bool accumulate, TileScratch& scratch) {
  const float* a = row_f32(x, first);
  int64_t a_ld = x.ld;
  float* c = y;
  int64_t c_ld = y_ld;
  if (rows < kTileRows) {
    scratch.x.assign(static_cast<size_t>(kTileRows * x.cols), 0.0f);
    scratch.y.assign(static_cast<size_t>(kTileRows * n), 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(&scratch.x[r * x.cols], a + r * a_ld, sizeof(float) * x.cols);
      if (accumulate) std::memcpy(&scratch.y[r * n], y + r * y_ld, sizeof(float) * n);
    }
    a = scratch.x.data();
    a_ld = x.cols;
    c = scratch.y.data();
    c_ld = n;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kTileRows, static_cast<blasint>(n), static_cast<blasint>(x.cols),
              1.0f, a, static_cast<blasint>(a_ld), panel, static_cast<blasint>(panel_ld), accumulate ? 1.0f : 0.0f, c,
              static_cast<blasint>(c_ld));
  if (rows < kTileRows)
    for (int64_t r = 0; r < rows; ++r) std::memcpy(y + r * y_ld, c + r * c_ld, sizeof(float) * n);
}

// The dot product of one weight row with one activation row: four chains of sixteen lanes, then the tail.
template <class W>
float dot(const W* w, const float* x, int64_t k) {
  Lanes acc[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= k; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) acc[j] += load_lanes(w + i + j * kLanes) * load_lanes(x + i + j * kLanes);
  for (; i + kLanes <= k; i += kLanes) acc[0] += load_lanes(w + i) * load_lanes(x + i);
  float sum = sum_lanes((acc[0] + acc[1]) + (acc[2] + acc[3]));
  for (; i < k; ++i) {
    if constexpr (std::is_same_v<W, bf16>)
      sum += to_float(w[i]) * x[i];
    else
      sum += w[i] * x[i];
  }
  return sum;
}

template <class W>
void gemv_rows(const MatrixView& x, const MatrixView& w, const MatrixView& y, int64_t first, int64_t last,
               bool accumulate) {
  for (int64_t r = first; r < last; ++r) {
    const W* row = static_cast<const W*>(w.data) + r * w.ld;
    for (int64_t m = 0; m < x.rows; ++m) {
      float* out = static_cast<float*>(y.data) + m * y.ld + r;
      float value = dot(row, row_f32(x, m), x.cols);
      *out = accumulate ? *out + value : value;
    }
  }
}

}  // namespace

void gemm_cpu(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate) {
  int64_t tiles = (x.rows + kTileRows - 1) / kTileRows;
  int64_t panels = (w.rows + kPanelRows - 1) / kPanelRows;
  // One item = one panel and a run of tiles, so that a widened panel serves several tiles.
  int64_t runs = std::min<int64_t>(tiles, ctx.threads());
  ctx.parallel_for(panels * runs, [&](int64_t item) {
    thread_local TileScratch scratch;
    int64_t panel = item / runs, run = item % runs;
    int64_t n0 = panel * kPanelRows, n = std::min(kPanelRows, w.rows - n0);
    int64_t panel_ld = 0;
    const float* panel_data = panel_f32(w, n0, n, scratch.panel, &panel_ld);
    for (int64_t tile = tiles * run / runs; tile < tiles * (run + 1) / runs; ++tile) {
      int64_t m0 = tile * kTileRows;
      float* out = static_cast<float*>(y.data) + m0 * y.ld + n0;
      multiply_tile(x, m0, std::min(kTileRows, x.rows - m0), panel_data, panel_ld, n, out, y.ld, accumulate, scratch);
    }
  });
}

void gemv_cpu(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate) {
  constexpr int64_t kRowsPerItem = 64;
  int64_t items = (w.rows + kRowsPerItem - 1) / kRowsPerItem;
  ctx.parallel_for(items, [&](int64_t item) {
    int64_t first = item * kRowsPerItem, last = std::min(first + kRowsPerItem, w.rows);
    if (w.dtype == DType::bf16)
      gemv_rows<bf16>(x, w, y, first, last, accumulate);
    else
      gemv_rows<float>(x, w, y, first, last, accumulate);
  });
}

}  // namespace restkv
