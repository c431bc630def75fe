// A contiguous array in row-major order on one device: an owner, or a view of memory that lives longer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dist/base/dtype.h"

namespace restkv {

using Shape = std::vector<int64_t>;

class Tensor {
 public:
  Tensor() = default;

  /// A view: the caller keeps `data` alive. Preconditions: data holds the product of `shape` elements.
  static Tensor view(void* data, DType dtype, Shape shape, Device device = Device::cpu);

  /// An owner: `memory` keeps the elements alive as long as this tensor or a slice of it lives.
  static Tensor own(std::shared_ptr<void> memory, DType dtype, Shape shape, Device device);

  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int64_t size(int dim) const { return shape_.at(static_cast<size_t>(dim)); }
  int64_t numel() const { return numel_; }
  int64_t bytes() const { return numel_ * size_of(dtype_); }
  bool defined() const { return data_ != nullptr || numel_ == 0; }
  bool empty() const { return numel_ == 0; }
  std::string describe() const;  ///< "bf16[128, 64] on cpu"

  void* raw() const { return data_; }

  /// The elements; T must be the dtype's C++ type (checked).
  template <class T>
  T* data() const {
    check_dtype(dtype_of<T>());
    return static_cast<T*>(data_);
  }

  /// All elements of a CPU tensor as a span.
  template <class T>
  std::span<T> span() const {
    return {data<T>(), static_cast<size_t>(numel_)};
  }

  /// Rows [first, first + count) along dimension 0, sharing the memory (and its ownership).
  Tensor rows(int64_t first, int64_t count) const;

  /// The same elements with another shape of equal size.
  Tensor reshape(Shape shape) const;

 private:
  void check_dtype(DType expected) const;

  std::shared_ptr<void> memory_;
  void* data_ = nullptr;
  DType dtype_ = DType::f32;
  Device device_ = Device::cpu;
  Shape shape_{0};
  int64_t numel_ = 0;
};

}  // namespace restkv
