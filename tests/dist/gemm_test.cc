#include "dist/base/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "dist/base/blas_kernels.h"
#include "dist/base/error.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

using Product = void (*)(Context&, const MatrixView&, const MatrixView&, const MatrixView&, bool);

struct Case {
  int64_t m, n, k;
  int64_t x_pad = 0, w_pad = 0, y_pad = 0;  // ld - columns
};

// A random matrix (zero with seed 0) with its padding: the padding is filled with a value that must neither be read nor
// written.
struct Matrix {
  int64_t rows, cols, ld;
  std::vector<float> data;
  std::vector<bf16> narrow;

  Matrix(int64_t rows_, int64_t cols_, int64_t pad, unsigned seed)
      : rows(rows_), cols(cols_), ld(cols_ + pad), data(static_cast<size_t>(rows_ * ld), kPadding) {
    std::mt19937 random(seed);
    std::normal_distribution<float> values;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) data[r * ld + c] = seed == 0 ? 0.0f : values(random);
  }
  void narrow_to_bf16() {
    narrow.resize(data.size());
    for (size_t i = 0; i < data.size(); ++i) {
      narrow[i] = to_bf16(data[i]);
      data[i] = to_float(narrow[i]);
    }
  }
  MatrixView view() {
    if (!narrow.empty()) return MatrixView(narrow.data(), DType::bf16, rows, cols, ld);
    return MatrixView(data.data(), DType::f32, rows, cols, ld);
  }
  float at(int64_t r, int64_t c) const { return data[r * ld + c]; }
  static constexpr float kPadding = 1e30f;
};

void check_product(Product product, const Case& c, bool bf16_weight, bool accumulate, int threads = 2) {
  SCOPED_TRACE(::testing::Message() << c.m << "x" << c.n << "x" << c.k << (bf16_weight ? " bf16" : " f32")
                                    << (accumulate ? " accumulate" : ""));
  Context ctx({Device::cpu, threads});
  Matrix x(c.m, c.k, c.x_pad, 1), w(c.n, c.k, c.w_pad, 2), y(c.m, c.n, c.y_pad, 3), before = y;
  if (bf16_weight) w.narrow_to_bf16();
  product(ctx, x.view(), w.view(), y.view(), accumulate);
  double largest = 1e-30, worst = 0.0;
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t j = 0; j < c.n; ++j) {
      double sum = accumulate ? before.at(i, j) : 0.0;
      for (int64_t l = 0; l < c.k; ++l) sum += static_cast<double>(x.at(i, l)) * w.at(j, l);
      largest = std::max(largest, std::fabs(sum));
      worst = std::max(worst, std::fabs(sum - y.at(i, j)));
    }
  EXPECT_LE(worst, restkv::testing::kOpF32 * largest);
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t j = c.n; j < y.ld; ++j) ASSERT_EQ(y.data[i * y.ld + j], Matrix::kPadding) << "padding written";
}

const Case kCases[] = {{1, 1, 1},
                       {1, 1, 17},
                       {2, 3, 5},
                       {3, 257, 33},
                       {7, 64, 64, 3, 5, 7},
                       {127, 31, 65},
                       {128, 256, 64},
                       {129, 255, 100, 1},
                       {257, 513, 63, 0, 2, 9},
                       {300, 5, 576},
                       {5, 576, 129, 7, 0},
                       {130, 300, 1, 2, 2},
                       {64, 48, 300, 0, 0, 1}};

class Products : public ::testing::TestWithParam<Product> {};

TEST_P(Products, AgreeWithDoublePrecision) {
  for (const Case& c : kCases)
    for (bool narrow : {false, true})
      for (bool accumulate : {false, true}) check_product(GetParam(), c, narrow, accumulate);
}

TEST_P(Products, EmptyMatrices) {
  check_product(GetParam(), {0, 5, 5}, false, false);
  check_product(GetParam(), {5, 0, 5}, false, false);
  check_product(GetParam(), {5, 7, 0}, false, false);
  check_product(GetParam(), {5, 7, 0, 1, 1, 2}, false, false);  // a sum of nothing is zero
  check_product(GetParam(), {5, 7, 0, 1, 1, 2}, true, true);
}

TEST_P(Products, MisuseIsRefused) {
  Context ctx({Device::cpu, 1});
  Matrix x(2, 3, 0, 1), w(4, 3, 0, 2), y(2, 4, 0, 3), other(2, 5, 0, 4);
  EXPECT_THROW(GetParam()(ctx, other.view(), w.view(), y.view(), false), RuntimeFailure);
  EXPECT_THROW(GetParam()(ctx, x.view(), w.view(), other.view(), false), RuntimeFailure);
  MatrixView halves = y.view();
  halves.dtype = DType::f16;
  EXPECT_THROW(GetParam()(ctx, x.view(), w.view(), halves, false), RuntimeFailure);
  MatrixView bytes = w.view();
  bytes.dtype = DType::u8;
  EXPECT_THROW(GetParam()(ctx, x.view(), bytes, y.view(), false), RuntimeFailure);
  MatrixView overlapping = w.view();
  overlapping.ld = 2;
  EXPECT_THROW(GetParam()(ctx, x.view(), overlapping, y.view(), false), RuntimeFailure);
}

// The promise of gemm.h, to the last bit: row i depends on the other rows neither by their values nor their number.
// gemm alone asks that a row keeps its place in a tile.
TEST_P(Products, ARowDoesNotDependOnTheOthers) {
  for (auto [n, k] : {std::pair<int64_t, int64_t>{96, 64}, {257, 192}, {33, 577}}) {
    for (bool narrow : {false, true}) {
      constexpr int64_t kRows = 300;
      Matrix x(kRows, k, 0, 5), w(n, k, 0, 6), whole(kRows, n, 0, 7);
      if (narrow) w.narrow_to_bf16();
      Context two({Device::cpu, 2}), one({Device::cpu, 1}), five({Device::cpu, 5});
      GetParam()(two, x.view(), w.view(), whole.view(), false);
      auto expect_rows = [&](const Matrix& y, int64_t first) {
        for (int64_t r = 0; r < y.rows; ++r)
          ASSERT_EQ(std::memcmp(&y.data[r * y.ld], &whole.data[(first + r) * whole.ld], sizeof(float) * n), 0)
              << "row " << first + r << " in a batch of " << y.rows << ", n " << n << " k " << k;
      };
      for (Context* ctx : {&one, &five}) {
        Matrix y(kRows, n, 0, 0);
        GetParam()(*ctx, x.view(), w.view(), y.view(), false);
        expect_rows(y, 0);
      }
      // Every number of rows, from another first row each time.
      for (int64_t m = 1; m <= kRows; m += n == 96 ? 1 : 7) {
        int64_t first = (m * 37) % (kRows - m + 1);
        if (GetParam() == &gemm) first -= first % kGemmTileRows;
        Matrix y(m, n, 3, 0);
        GetParam()(m % 16 ? one : two, x.view().block(first, m, 0, k), w.view(), y.view(), false);
        expect_rows(y, first);
      }
    }
  }
}

// Rows cut over ranks are cut here over calls: the outputs of a slice of w are the same bits as in the whole.
TEST(Gemv, AnOutputDoesNotDependOnTheOtherOutputs) {
  Context ctx({Device::cpu, 2});
  Matrix x(1, 200, 0, 1), w(300, 200, 0, 2), whole(1, 300, 0, 3);
  gemv(ctx, x.view(), w.view(), whole.view());
  for (int64_t first = 0; first < 300; first += 41) {
    int64_t n = std::min<int64_t>(77, 300 - first);
    Matrix y(1, n, 0, 4);
    gemv(ctx, x.view(), w.view().block(first, n, 0, 200), y.view());
    for (int64_t j = 0; j < n; ++j) ASSERT_EQ(y.data[j], whole.data[first + j]);
  }
}

TEST(BlasKernels, AreNotTheOldestOnesOnANewProcessor) {
  std::string name = choose_blas_kernels();
  EXPECT_EQ(choose_blas_kernels(), name);
#if defined(__x86_64__)
  if (std::getenv("OPENBLAS_CORETYPE") == nullptr && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    EXPECT_NE(name, "Prescott");
  }
#endif
}

INSTANTIATE_TEST_SUITE_P(All, Products, ::testing::Values(&gemm, &gemv),
                         [](const auto& info) { return info.param == &gemm ? "gemm" : "gemv"; });

TEST(MatrixView, TensorsAndBlocks) {
  Context ctx({Device::cpu, 1});
  Tensor t = ctx.zeros(DType::bf16, {3, 4, 5});
  MatrixView view(t);
  EXPECT_EQ(view.rows, 12);
  EXPECT_EQ(view.cols, 5);
  EXPECT_EQ(view.ld, 5);
  MatrixView block = view.block(2, 3, 1, 4);
  EXPECT_EQ(static_cast<char*>(block.data) - static_cast<char*>(view.data), (2 * 5 + 1) * 2);
  EXPECT_EQ(block.rows, 3);
  EXPECT_EQ(block.cols, 4);
  EXPECT_EQ(block.ld, 5);
  EXPECT_THROW(view.block(10, 3, 0, 5), RuntimeFailure);
  EXPECT_THROW(view.block(0, 1, 3, 3), RuntimeFailure);
}

}  // namespace
}  // namespace restkv
