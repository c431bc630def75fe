// Building blocks of the CPU kernels: panels of 32 positions with one position per lane, and the product of a few
// rows with a panel. Every element is one chain of multiply-adds with k ascending, whichever lane, row block or
// thread computes it; that is why scores have the same bits on every layout, and why no BLAS is used here.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <type_traits>
#include <utility>

#include "dist/base/error.h"
#include "kvcache/cpu/panel.h"

namespace restkv {

/// Rows of a product held in registers at once (times two vectors of sixteen floats).
#if defined(__AVX512F__)
inline constexpr int kRowBlock = 8;
#else
inline constexpr int kRowBlock = 2;
#endif

/// Scratch of one work item: floats, 64-byte aligned, uninitialised.
class TileBuffer {
 public:
  explicit TileBuffer(int64_t count)
      : data_(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>((count * 4 + 63) / 64 * 64)))) {
    if (!data_) fail_runtime("out of memory: {} bytes of scratch", count * 4);
  }
  float* get() const { return data_.get(); }
  float* operator+(int64_t i) const { return data_.get() + i; }
  float& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
};

namespace detail {

template <int S, int... J>
RESTKV_INLINE Lanes exchange_low(Lanes a, Lanes b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, ((J & S) ? kLanes + J - S : J)...);
}
template <int S, int... J>
RESTKV_INLINE Lanes exchange_high(Lanes a, Lanes b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, ((J & S) ? kLanes + J : J + S)...);
}

// One stage of the transposition: swaps the off-diagonal S x S blocks of every 2S x 2S block.
template <int S>
RESTKV_INLINE void transpose_stage(Lanes* row) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>{};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & S) continue;
    Lanes a = row[i], b = row[i + S];
    row[i] = exchange_low<S>(a, b, lanes);
    row[i + S] = exchange_high<S>(a, b, lanes);
  }
}

}  // namespace detail

/// Transposes 16 x 16 floats in registers.
RESTKV_INLINE void transpose_lanes(Lanes* row) {
  detail::transpose_stage<1>(row);
  detail::transpose_stage<2>(row);
  detail::transpose_stage<4>(row);
  detail::transpose_stage<8>(row);
}

/// panel[k][j] = rows[j * row_stride + k] for k < d and j < count; zero for j in [count, kPanel). count <= kPanel.
inline void pack_panel(const float* rows, int64_t row_stride, int64_t count, int64_t d, float* panel) {
  int64_t whole = d / kLanes * kLanes;
  for (int64_t k = 0; k < whole; k += kLanes)
    for (int64_t half = 0; half < kPanel; half += kLanes) {
      Lanes tile[kLanes];
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j)
        tile[j] = half + j < count ? load_lanes(rows + (half + j) * row_stride + k) : Lanes{};
      transpose_lanes(tile);
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) store_lanes(panel + (k + j) * kPanel + half, tile[j]);
    }
  for (int64_t k = whole; k < d; ++k)
    for (int64_t j = 0; j < kPanel; ++j) panel[k * kPanel + j] = j < count ? rows[j * row_stride + k] : 0.0f;
}

/// c[r] += sum over k in [k0, k1) of a[r * lda + k] * panel row k, for R rows and one panel in registers.
template <int R>
RESTKV_INLINE void multiply_rows(const float* a, int64_t lda, const float* panel, int64_t panel_stride, int64_t k0,
                                 int64_t k1, Lanes (&c)[R][2]) {
  for (int64_t k = k0; k < k1; ++k) {
    Lanes b0 = load_lanes(panel + k * panel_stride);
    Lanes b1 = load_lanes(panel + k * panel_stride + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      Lanes x = broadcast_lanes(a[r * lda + k]);
      c[r][0] += x * b0;
      c[r][1] += x * b1;
    }
  }
}

/// Calls f(std::integral_constant<int, R>, r0) for row blocks that cover [0, rows).
template <class F>
RESTKV_INLINE void for_row_blocks(int64_t rows, F&& f) {
  int64_t r = 0;
  for (; r + kRowBlock <= rows; r += kRowBlock) f(std::integral_constant<int, kRowBlock>{}, r);
  if constexpr (kRowBlock > 4)
    for (; r + 4 <= rows; r += 4) f(std::integral_constant<int, 4>{}, r);
  if constexpr (kRowBlock > 2)
    for (; r + 2 <= rows; r += 2) f(std::integral_constant<int, 2>{}, r);
  for (; r < rows; ++r) f(std::integral_constant<int, 1>{}, r);
}

/// c [rows, kPanel] with row stride ldc; c = a * panel, or c += with `accumulate`. a [rows, K].
inline void multiply_panel(const float* a, int64_t lda, int64_t rows, const float* panel, int64_t panel_stride,
                           int64_t K, float* c, int64_t ldc, bool accumulate) {
  for_row_blocks(rows, [&](auto block, int64_t r0) {
    constexpr int R = decltype(block)::value;
    Lanes acc[R][2];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < 2; ++v) acc[r][v] = accumulate ? load_lanes(c + (r0 + r) * ldc + v * kLanes) : Lanes{};
    multiply_rows<R>(a + r0 * lda, lda, panel, panel_stride, 0, K, acc);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < 2; ++v) store_lanes(c + (r0 + r) * ldc + v * kLanes, acc[r][v]);
  });
}

RESTKV_INLINE Lanes sqrt_lanes(Lanes x) {
  float v[kLanes];
  store_lanes(v, x);
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return load_lanes(v);
}

}  // namespace restkv
