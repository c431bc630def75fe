// A tensor as it lies in a mapped file, and the one reader of its slices.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "model/weights/encoding.h"
#include "model/weights/mapped_file.h"
#include "model/weights/weight_source.h"

namespace restkv {

/// Row r of the logical matrix lies at stored row map(r); an empty function is the identity.
using RowMap = std::function<int64_t(int64_t)>;

struct StoredTensor {
  WeightInfo info;                     ///< info.name: the name that messages use
  const Encoding* encoding = nullptr;  ///< null: its values cannot be read (the header is valid all the same)
  std::shared_ptr<const MappedFile> file;
  int64_t offset = 0;  ///< of the first byte in the file; info.stored_bytes follow
  RowMap row_map;
};

/// Bytes of a tensor of that shape, or -1 when it is not a whole number of blocks per row, a dimension is negative, or
/// the product overflows.
int64_t encoded_bytes(int64_t block, int64_t block_bytes, const Shape& shape);

/// WeightSource::read for a tensor of one or two dimensions.
void read_stored(const StoredTensor& tensor, Range rows, Range cols, DType dtype, void* dst);

/// "[3, 4]"
std::string shape_text(const Shape& shape);

}  // namespace restkv
