#include "dist/base/tensor.h"

#include <fmt/ranges.h>

#include "dist/base/error.h"

namespace restkv {
namespace {

int64_t product(const Shape& shape) {
  int64_t n = 1;
  for (int64_t extent : shape) {
    RESTKV_CHECK(extent >= 0, "negative extent in shape [{}]", fmt::join(shape, ", "));
    n *= extent;
  }
  return n;
}

}  // namespace

Tensor Tensor::view(void* data, DType dtype, Shape shape, Device device) {
  Tensor t;
  t.numel_ = product(shape);
  t.data_ = data;
  t.dtype_ = dtype;
  t.device_ = device;
  t.shape_ = std::move(shape);
  RESTKV_CHECK(data != nullptr || t.numel_ == 0, "view of no memory, {}", t.describe());
  return t;
}

Tensor Tensor::own(std::shared_ptr<void> memory, DType dtype, Shape shape, Device device) {
  Tensor t = view(memory.get(), dtype, std::move(shape), device);
  t.memory_ = std::move(memory);
  return t;
}

std::string Tensor::describe() const {
  return fmt::format("{}[{}] on {}", name_of(dtype_), fmt::join(shape_, ", "), name_of(device_));
}

Tensor Tensor::rows(int64_t first, int64_t count) const {
  RESTKV_CHECK(!shape_.empty() && first >= 0 && count >= 0 && first + count <= shape_[0], "rows [{}, {}) of {}", first,
               first + count, describe());
  Tensor t = *this;
  int64_t row_bytes = shape_[0] == 0 ? 0 : bytes() / shape_[0];
  t.data_ = static_cast<char*>(data_) + first * row_bytes;
  t.shape_[0] = count;
  t.numel_ = product(t.shape_);
  return t;
}

Tensor Tensor::reshape(Shape shape) const {
  Tensor t = *this;
  t.shape_ = std::move(shape);
  RESTKV_CHECK(product(t.shape_) == numel_, "reshape of {} to [{}]", describe(), fmt::join(t.shape_, ", "));
  return t;
}

void Tensor::check_dtype(DType expected) const {
  RESTKV_CHECK(dtype_ == expected, "asked for {}, tensor is {}", name_of(expected), describe());
}

}  // namespace restkv
