// Makes small weight files, good and bad ones, for the tests of the readers.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "dist/base/error.h"
#include "model/weights/weight_source.h"

namespace restkv::testing {

namespace fs = std::filesystem;

/// A directory of this test alone, removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (fs::temp_directory_path() / "restkv_test_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed for " + pattern);
    path_ = pattern;
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string file(const std::string& name) const { return (path_ / name).string(); }
  const fs::path& path() const { return path_; }
  /// A new file each time: rewriting one in place makes some file systems flush it to disk first.
  std::string write(const std::string& name, const std::string& bytes) const {
    fs::remove(path_ / name);
    std::ofstream out(path_ / name, std::ios::binary);
    out << bytes;
    return file(name);
  }

 private:
  fs::path path_;
};

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot open " + path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

/// A safetensors file of a header text and data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return raw<uint64_t>(header.size()) + header + data;
}

/// Puts a GGUF header together piece by piece, so that any number in it can be a lie.
class GgufBytes {
 public:
  static std::string text(const std::string& s) { return raw<uint64_t>(s.size()) + s; }
  /// value: the raw bytes of one value of that type.
  GgufBytes& key(const std::string& name, uint32_t type, const std::string& value) {
    values_ += text(name) + raw(type) + value;
    ++value_count;
    return *this;
  }
  GgufBytes& key(const std::string& name, uint32_t value) { return key(name, 4, raw(value)); }
  GgufBytes& key(const std::string& name, float value) { return key(name, 6, raw(value)); }
  GgufBytes& key(const std::string& name, const std::string& value) { return key(name, 8, text(value)); }
  /// dims: fastest first, as in the file.
  GgufBytes& tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    tensors_ += text(name) + raw<uint32_t>(static_cast<uint32_t>(dims.size())) + raw(dims) + raw(type) + raw(offset);
    ++tensor_count;
    return *this;
  }
  std::string bytes(const std::string& data, size_t alignment = 32) const {
    std::string all = "GGUF" + raw(version) + raw(tensor_count) + raw(value_count) + values_ + tensors_;
    all.resize((all.size() + alignment - 1) / alignment * alignment);
    return all + data;
  }

  uint32_t version = 3;
  uint64_t tensor_count = 0;
  uint64_t value_count = 0;

 private:
  std::string values_, tensors_;
};

/// The text of the InputError that `action` throws; a test failure (and "") when it throws nothing.
inline std::string input_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const InputError& e) {
    return e.what();
  }
  ADD_FAILURE() << "no InputError";
  return "";
}

/// Expects an InputError whose text holds every part.
inline void expect_input_error(const std::function<void()>& action, const std::vector<std::string>& parts) {
  std::string text = input_error(action);
  for (const std::string& part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" in: " << text;
}

/// A slice in float32.
inline std::vector<float> read_f32(const WeightSource& w, const std::string& name, Range rows, Range cols) {
  std::vector<float> values(static_cast<size_t>(rows.size() * cols.size()));
  w.read(name, rows, cols, DType::f32, values.data());
  return values;
}

inline std::vector<bf16> read_bf16(const WeightSource& w, const std::string& name, Range rows, Range cols) {
  std::vector<bf16> values(static_cast<size_t>(rows.size() * cols.size()));
  w.read(name, rows, cols, DType::bf16, values.data());
  return values;
}

}  // namespace restkv::testing
