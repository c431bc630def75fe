#include "model/weights/gguf_parser.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "dist/base/error.h"
#include "model/weights/gguf_types.h"

namespace restkv {

static_assert(std::endian::native == std::endian::little, "the parser copies little-endian numbers as they are");

namespace {

// The fewest bytes of a metadata entry (empty key, type, one byte) and of a tensor entry (empty name, one dimension).
constexpr uint64_t kMinValueBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;
constexpr uint32_t kMaxDims = 4;
// The format's limit on keys; tensor names are shorter still. Names stand in messages, so none may be huge.
constexpr uint64_t kMaxName = 65535;
constexpr int64_t kMaxAlignment = int64_t{1} << 20;

}  // namespace

template <class T>
T GgufParser::number(const std::string& what) {
  need(sizeof(T), what);
  T value;
  std::memcpy(&value, file_->data() + at_, sizeof(value));
  at_ += static_cast<int64_t>(sizeof(T));
  return value;
}

void GgufParser::need(uint64_t bytes, const std::string& what) const {
  uint64_t left = static_cast<uint64_t>(file_->size() - at_);
  if (bytes > left)
    fail_input("{}: {} needs {} bytes at offset {}, but the file ends after {} more (truncated or damaged)",
               file_->path(), what, bytes, at_, left);
}

std::string_view GgufParser::text(const std::string& what) {
  uint64_t length = number<uint64_t>("the length of " + what);
  need(length, what);
  std::string_view value(reinterpret_cast<const char*>(file_->data()) + at_, length);
  at_ += static_cast<int64_t>(length);
  return value;
}

std::string GgufParser::name(const std::string& what) {
  std::string_view value = text(what);
  if (value.empty() || value.size() > kMaxName)
    fail_input("{}: {} is {} bytes long; 1 to {} are allowed (damaged)", file_->path(), what, value.size(), kMaxName);
  return std::string(value);
}

uint64_t GgufParser::count(uint64_t each, const std::string& what) {
  uint64_t n = number<uint64_t>("the number of " + what);
  uint64_t left = static_cast<uint64_t>(file_->size() - at_);
  if (n > left / each)
    fail_input("{}: the number of {} is {}; at most {} fit in the rest of the file (truncated or damaged)",
               file_->path(), what, n, left / each);
  return n;
}

GgufType GgufParser::type(const std::string& what) {
  uint32_t value = number<uint32_t>(what);
  if (!is_gguf_type(value)) fail_input("{}: {} is {}; 0 to 12 are allowed", file_->path(), what, value);
  return static_cast<GgufType>(value);
}

void GgufParser::header() {
  need(8, "the header (\"GGUF\" and a version)");
  if (std::memcmp(file_->data(), "GGUF", 4) != 0)
    fail_input("{}: not a GGUF file (it does not begin with \"GGUF\")", file_->path());
  at_ = 4;
  uint32_t version = number<uint32_t>("the version");
  if (version != 2 && version != 3)
    fail_input("{}: GGUF version {}; 2 and 3 are supported{}", file_->path(), version,
               (version & 0xffffu) == 0 ? " (a big-endian file? only little-endian ones are)" : "");
  tensor_count_ = count(kMinTensorBytes, "tensors");
  value_count_ = count(kMinValueBytes, "metadata keys");
}

void GgufParser::values(std::map<std::string, GgufValue>* values) {
  for (uint64_t i = 0; i < value_count_; ++i) {
    std::string key = name(fmt::format("metadata key {}", i));
    std::string what = "key " + key;
    GgufValue v;
    v.type = type("the type of " + what);
    v.array = v.type == GgufType::array;
    v.count = 1;
    if (v.array) {
      v.type = type("the element type of " + what);
      if (v.type == GgufType::array)
        fail_input("{}: {} is an array of arrays, which is not supported", file_->path(), what);
      uint64_t each = v.type == GgufType::string ? 8 : static_cast<uint64_t>(size_of(v.type));
      v.count = static_cast<int64_t>(count(each, "elements of " + what));
    }
    v.offset = at_;
    if (v.type == GgufType::string) {
      for (int64_t n = 0; n < v.count; ++n) text(what);
    } else {
      int64_t bytes = v.count * size_of(v.type);
      need(static_cast<uint64_t>(bytes), what);
      at_ += bytes;
    }
    if (!values->emplace(key, v).second) fail_input("{}: {} occurs twice", file_->path(), what);
  }
}

StoredTensor GgufParser::tensor(uint64_t index) {
  StoredTensor t;
  t.file = file_;
  t.info.name = name(fmt::format("the name of tensor {}", index));
  std::string what = "tensor " + t.info.name;
  uint32_t dims = number<uint32_t>("the number of dimensions of " + what);
  if (dims < 1 || dims > kMaxDims)
    fail_input("{}: {} has {} dimensions; 1 to {} are allowed", file_->path(), what, dims, kMaxDims);
  for (uint32_t d = 0; d < dims; ++d) {
    uint64_t n = number<uint64_t>("the shape of " + what);
    if (n > INT64_MAX) fail_input("{}: {}: a dimension is {}; at most 2^63-1 is allowed", file_->path(), what, n);
    t.info.shape.insert(t.info.shape.begin(), static_cast<int64_t>(n));  // the file lists the fastest one first
  }
  uint32_t number_of_type = number<uint32_t>("the type of " + what);
  const GgmlType* type = find_ggml_type(number_of_type);
  if (type == nullptr)
    fail_input("{}: {} has the unknown type {}; readable: {}", file_->path(), what, number_of_type,
               readable_encodings());
  t.info.encoding = type->name;
  t.encoding = find_encoding(type->name);
  t.info.stored_bytes = encoded_bytes(type->block, type->block_bytes, t.info.shape);
  if (t.info.stored_bytes < 0)
    fail_input("{}: {} has shape {} of {}; rows of whole blocks of {} elements, and less than 2^63 bytes, are allowed",
               file_->path(), what, shape_text(t.info.shape), type->name, type->block);
  uint64_t offset = number<uint64_t>("the offset of " + what);
  if (offset > static_cast<uint64_t>(file_->size()))
    fail_input("{}: {} begins {} bytes into the data of a file of {} bytes (truncated or damaged)", file_->path(), what,
               offset, file_->size());
  t.offset = static_cast<int64_t>(offset);  // made absolute by place()
  return t;
}

void GgufParser::place(std::vector<StoredTensor>* tensors, int64_t alignment) {
  if (alignment < 1 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0)
    fail_input("{}: key general.alignment: found {}; a power of two up to {} is allowed", file_->path(), alignment,
               kMaxAlignment);
  int64_t data_begin = (at_ + alignment - 1) / alignment * alignment;
  for (StoredTensor& t : *tensors) {
    if (t.offset % alignment != 0)
      fail_input("{}: tensor {} begins at data offset {}; multiples of the alignment {} are allowed", file_->path(),
                 t.info.name, t.offset, alignment);
    t.offset += data_begin;
    if (t.offset > file_->size() || t.info.stored_bytes > file_->size() - t.offset)
      fail_input(
          "{}: tensor {}: {} bytes ({} {}) from offset {} end beyond the file of {} bytes (truncated or damaged)",
          file_->path(), t.info.name, t.info.stored_bytes, t.info.encoding, shape_text(t.info.shape), t.offset,
          file_->size());
  }
  std::stable_sort(tensors->begin(), tensors->end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.offset, a.info.stored_bytes) < std::pair(b.offset, b.info.stored_bytes);
  });
  std::set<std::string> names;
  int64_t end = data_begin;
  for (const StoredTensor& t : *tensors) {
    if (!names.insert(t.info.name).second) fail_input("{}: two tensors are named {}", file_->path(), t.info.name);
    if (t.offset < end)
      fail_input("{}: tensor {} overlaps another tensor by {} bytes", file_->path(), t.info.name, end - t.offset);
    end = t.offset + t.info.stored_bytes;
  }
}

std::vector<StoredTensor> GgufParser::tensors() {
  std::vector<StoredTensor> all;
  for (uint64_t i = 0; i < tensor_count_; ++i) all.push_back(tensor(i));
  return all;
}

}  // namespace restkv
