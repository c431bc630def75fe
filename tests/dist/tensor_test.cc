#include "dist/base/tensor.h"

#include <gtest/gtest.h>

#include "dist/base/context.h"
#include "dist/base/error.h"

namespace restkv {
namespace {

TEST(Tensor, ViewsAreRowMajor) {
  float data[12];
  for (int i = 0; i < 12; ++i) data[i] = static_cast<float>(i);
  Tensor t = Tensor::view(data, DType::f32, {3, 4});
  EXPECT_EQ(t.numel(), 12);
  EXPECT_EQ(t.bytes(), 48);
  EXPECT_EQ(t.size(0), 3);
  EXPECT_EQ(t.size(1), 4);
  EXPECT_EQ(t.data<float>(), data);
  EXPECT_EQ(t.describe(), "f32[3, 4] on cpu");
  Tensor rows = t.rows(1, 2);
  EXPECT_EQ(rows.shape(), (Shape{2, 4}));
  EXPECT_EQ(rows.data<float>()[0], 4.0f);
  EXPECT_EQ(rows.span<float>().back(), 11.0f);
  EXPECT_EQ(t.reshape({2, 2, 3}).size(2), 3);
  EXPECT_EQ(t.rows(3, 0).numel(), 0);
}

TEST(Tensor, MisuseIsRefused) {
  float data[4] = {};
  Tensor t = Tensor::view(data, DType::f32, {2, 2});
  EXPECT_THROW(t.data<bf16>(), RuntimeFailure);
  EXPECT_THROW(t.rows(1, 2), RuntimeFailure);
  EXPECT_THROW(t.rows(-1, 1), RuntimeFailure);
  EXPECT_THROW(t.reshape({3}), RuntimeFailure);
  EXPECT_THROW(Tensor::view(data, DType::f32, {-1}), RuntimeFailure);
  EXPECT_THROW(Tensor::view(nullptr, DType::f32, {1}), RuntimeFailure);
  EXPECT_THROW(t.size(2), std::out_of_range);
}

TEST(Tensor, EmptyTensors) {
  Tensor none;
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(none.bytes(), 0);
  Tensor t = Tensor::view(nullptr, DType::bf16, {0, 8});
  EXPECT_EQ(t.rows(0, 0).numel(), 0);
}

TEST(Tensor, ASliceKeepsTheMemory) {
  Context ctx({Device::cpu, 1});
  Tensor slice;
  {
    Tensor whole = ctx.zeros(DType::f32, {100, 10});
    whole.data<float>()[990] = 5.0f;
    slice = whole.rows(99, 1);
  }
  EXPECT_EQ(ctx.memory().current(), 4000);
  EXPECT_EQ(slice.data<float>()[0], 5.0f);
  slice = Tensor();
  EXPECT_EQ(ctx.memory().current(), 0);
}

}  // namespace
}  // namespace restkv
