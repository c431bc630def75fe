// A few lines to read golden vectors, independent of the library's own reader.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace restkv::testing {

struct GoldenArray {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<float> f32;
  std::vector<int32_t> i32;
};

struct GoldenFile {
  std::map<std::string, std::string> metadata;
  std::map<std::string, GoldenArray> arrays;

  bool has(const std::string& name) const { return arrays.count(name) != 0; }
  const GoldenArray& at(const std::string& name) const {
    auto it = arrays.find(name);
    if (it == arrays.end()) throw std::runtime_error("no array " + name);
    return it->second;
  }
};

inline GoldenFile read_golden(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot open " + path);
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  auto header = nlohmann::json::parse(bytes.substr(8, header_bytes));
  GoldenFile file;
  for (auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      file.metadata = entry.get<std::map<std::string, std::string>>();
      continue;
    }
    GoldenArray array{entry["dtype"], entry["shape"], {}, {}};
    const char* data = bytes.data() + 8 + header_bytes + entry["data_offsets"][0].get<size_t>();
    size_t n = (entry["data_offsets"][1].get<size_t>() - entry["data_offsets"][0].get<size_t>()) / 4;
    if (array.dtype == "F32") {
      array.f32.resize(n);
      std::memcpy(array.f32.data(), data, 4 * n);
    } else if (array.dtype == "I32") {
      array.i32.resize(n);
      std::memcpy(array.i32.data(), data, 4 * n);
    } else {
      throw std::runtime_error(path + ": " + name + " is " + array.dtype + "; F32 or I32 expected");
    }
    file.arrays[name] = std::move(array);
  }
  return file;
}

}  // namespace restkv::testing
