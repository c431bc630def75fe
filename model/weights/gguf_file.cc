#include "model/weights/gguf_file.h"

#include <cstring>

#include "dist/base/error.h"
#include "model/weights/gguf_parser.h"
#include "model/weights/gguf_types.h"

namespace restkv {
namespace {

template <class T>
T load(const MappedFile& file, int64_t offset) {
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(value));
  return value;
}

bool is_integer(GgufType type) {
  return type != GgufType::f32 && type != GgufType::f64 && type != GgufType::boolean && type != GgufType::string;
}

}  // namespace

GgufFile::GgufFile(const std::string& path) : file_(std::make_shared<const MappedFile>(path)) {
  GgufParser parser(file_);
  parser.header();
  parser.values(&values_);
  tensors_ = parser.tensors();
  parser.place(&tensors_, get_integer("general.alignment", 32));
  if (int64_t parts = get_integer("split.count", 1); parts > 1)
    fail_input("{}: is one of {} parts of a split file; merge them into one file first", path, parts);
}

const StoredTensor* GgufFile::find_tensor(const std::string& stored_name) const {
  for (const StoredTensor& t : tensors_)
    if (t.info.name == stored_name) return &t;
  return nullptr;
}

std::vector<float> GgufFile::read_vector(const StoredTensor& tensor) const {
  StoredTensor flat = tensor;
  int64_t n = 1;
  for (int64_t size : tensor.info.shape) n *= size;
  flat.info.shape = {n};
  std::vector<float> values(static_cast<size_t>(n));
  read_stored(flat, {0, 1}, {0, n}, DType::f32, values.data());
  return values;
}

std::vector<std::string> GgufFile::keys() const {
  std::vector<std::string> all;
  for (const auto& [key, value] : values_) all.push_back(key);
  return all;
}

const GgufValue& GgufFile::find(const std::string& key, bool array, const char* wanted) const {
  auto it = values_.find(key);
  if (it == values_.end()) fail_input("{}: key {} is missing; {} is needed", path(), key, wanted);
  if (it->second.array != array) reject(key, fmt::format("{} is needed", wanted));
  return it->second;
}

void GgufFile::reject(const std::string& key, const std::string& allowed) const {
  std::string found = "nothing";
  if (auto it = values_.find(key); it != values_.end()) {
    const GgufValue& v = it->second;
    if (v.array)
      found = fmt::format("a list of {} {} values", v.count, name_of(v.type));
    else if (v.type == GgufType::string)
      found = fmt::format("\"{}\"", get_string(key).substr(0, 80));
    else if (v.type == GgufType::boolean)
      found = get_bool(key, false) ? "true" : "false";
    else
      found = fmt::format("{} ({})", get_number(key), name_of(v.type));
  }
  fail_input("{}: key {}: found {}; {}", path(), key, found, allowed);
}

std::string_view GgufFile::string_at(int64_t offset) const {
  auto length = load<uint64_t>(*file_, offset);  // checked by the parser
  return {reinterpret_cast<const char*>(file_->data()) + offset + 8, length};
}

int64_t GgufFile::integer_at(const std::string& key, GgufType type, int64_t offset) const {
  switch (type) {
    case GgufType::u8: return load<uint8_t>(*file_, offset);
    case GgufType::i8: return load<int8_t>(*file_, offset);
    case GgufType::u16: return load<uint16_t>(*file_, offset);
    case GgufType::i16: return load<int16_t>(*file_, offset);
    case GgufType::u32: return load<uint32_t>(*file_, offset);
    case GgufType::i32: return load<int32_t>(*file_, offset);
    case GgufType::i64: return load<int64_t>(*file_, offset);
    case GgufType::u64: {
      auto value = load<uint64_t>(*file_, offset);
      if (value > INT64_MAX) fail_input("{}: key {}: found {}; at most 2^63-1 is allowed", path(), key, value);
      return static_cast<int64_t>(value);
    }
    default: reject(key, "an integer is needed");
  }
}

std::string GgufFile::get_string(const std::string& key) const {
  const GgufValue& v = find(key, false, "a string");
  if (v.type != GgufType::string) reject(key, "a string is needed");
  return std::string(string_at(v.offset));
}

std::string GgufFile::get_string(const std::string& key, const std::string& otherwise) const {
  return has(key) ? get_string(key) : otherwise;
}

int64_t GgufFile::get_integer(const std::string& key) const {
  const GgufValue& v = find(key, false, "an integer");
  return integer_at(key, v.type, v.offset);
}

int64_t GgufFile::get_integer(const std::string& key, int64_t otherwise) const {
  return has(key) ? get_integer(key) : otherwise;
}

double GgufFile::get_number(const std::string& key) const {
  const GgufValue& v = find(key, false, "a number");
  if (v.type == GgufType::f32) return load<float>(*file_, v.offset);
  if (v.type == GgufType::f64) return load<double>(*file_, v.offset);
  if (!is_integer(v.type)) reject(key, "a number is needed");
  // Not through integer_at, which complains with reject, which prints through this function.
  if (v.type == GgufType::u64) return static_cast<double>(load<uint64_t>(*file_, v.offset));
  return static_cast<double>(integer_at(key, v.type, v.offset));
}

double GgufFile::get_number(const std::string& key, double otherwise) const {
  return has(key) ? get_number(key) : otherwise;
}

bool GgufFile::get_bool(const std::string& key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const GgufValue& v = find(key, false, "a bool");
  if (v.type != GgufType::boolean) reject(key, "a bool is needed");
  return load<uint8_t>(*file_, v.offset) != 0;
}

std::vector<std::string> GgufFile::get_strings(const std::string& key) const {
  const GgufValue& v = find(key, true, "a list of strings");
  if (v.type != GgufType::string) reject(key, "a list of strings is needed");
  std::vector<std::string> all;
  all.reserve(static_cast<size_t>(v.count));
  int64_t at = v.offset;
  for (int64_t i = 0; i < v.count; ++i) {
    all.emplace_back(string_at(at));
    at += 8 + static_cast<int64_t>(all.back().size());
  }
  return all;
}

std::vector<int64_t> GgufFile::get_integers(const std::string& key) const {
  const GgufValue& v = find(key, true, "a list of integers");
  if (!is_integer(v.type)) reject(key, "a list of integers is needed");
  std::vector<int64_t> all;
  all.reserve(static_cast<size_t>(v.count));
  for (int64_t i = 0; i < v.count; ++i) all.push_back(integer_at(key, v.type, v.offset + i * size_of(v.type)));
  return all;
}

std::vector<float> GgufFile::get_floats(const std::string& key) const {
  const GgufValue& v = find(key, true, "a list of f32 values");
  if (v.type != GgufType::f32) reject(key, "a list of f32 values is needed");
  std::vector<float> all(static_cast<size_t>(v.count));
  if (!all.empty()) std::memcpy(all.data(), file_->data() + v.offset, all.size() * sizeof(float));
  return all;
}

}  // namespace restkv
