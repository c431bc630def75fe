// A checkpoint on disk, memory-mapped. Names are Hugging Face's ("model.layers.0.self_attn.q_proj.weight") whatever
// the file format; readers of other formats translate.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dist/base/context.h"
#include "dist/comm/partition.h"

namespace restkv {

struct WeightInfo {
  std::string name;      ///< Hugging Face name
  std::string encoding;  ///< as stored: "F32", "BF16", "Q4_1", ...
  Shape shape;           ///< logical shape, [rows, cols] or [n]
  int64_t stored_bytes = 0;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual bool contains(const std::string& name) const = 0;
  /// Throws InputError when there is no such tensor (naming the file and the tensor).
  virtual const WeightInfo& info(const std::string& name) const = 0;
  virtual std::vector<WeightInfo> list() const = 0;
  virtual std::string describe() const = 0;  ///< path and format, for messages

  /// Reads rows x cols of a matrix (a vector is [1, n]) into dst, row-major and dense, converted to `dtype` (f32 or
  /// bf16). Touches only the pages of that slice. Throws InputError for an encoding it cannot read.
  virtual void read(const std::string& name, Range rows, Range cols, DType dtype, void* dst) const = 0;

  /// The same slice straight into `out` [rows, cols] (f32 or bf16) on the context's device, in stream order, for
  /// sources that need no file. False, and nothing done, when this source cannot; then read() and copy.
  virtual bool fill(Context& ctx, const std::string& name, Range rows, Range cols, const Tensor& out) const {
    (void)ctx, (void)name, (void)rows, (void)cols, (void)out;
    return false;
  }

  /// The dtype that holds the stored values without loss and without waste: bf16 for BF16, else f32.
  DType natural_dtype(const std::string& name) const;
};

}  // namespace restkv
