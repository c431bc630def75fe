#include "model/weights/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <map>

#include "dist/base/error.h"
#include "model/json_reader.h"
#include "model/weights/tensor_table.h"

namespace restkv {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the readers copy little-endian numbers as they are");

// The format's own limit on the header's length.
constexpr uint64_t kMaxHeader = 100'000'000;

struct SafeType {
  std::string_view name;
  int64_t bytes;
};
// Types whose size is known, so that the header can be checked; find_encoding knows which of them can be read.
constexpr std::array<SafeType, 15> kTypes{{{"F64", 8},
                                           {"F32", 4},
                                           {"F16", 2},
                                           {"BF16", 2},
                                           {"I64", 8},
                                           {"I32", 4},
                                           {"I16", 2},
                                           {"I8", 1},
                                           {"U64", 8},
                                           {"U32", 4},
                                           {"U16", 2},
                                           {"U8", 1},
                                           {"BOOL", 1},
                                           {"F8_E4M3", 1},
                                           {"F8_E5M2", 1}}};

int64_t type_bytes(std::string_view name) {
  for (const SafeType& t : kTypes)
    if (t.name == name) return t.bytes;
  return 0;
}

/// One value of a list of non-negative integers.
int64_t size_value(const json& value, const std::string& where, const char* key) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX)
    fail_input("{}: {} holds {}; integers from 0 to 2^63-1 are allowed", where, key, value.dump());
  return static_cast<int64_t>(value.get<uint64_t>());
}

Shape size_list(const json& entry, const char* key, const std::string& where) {
  auto it = entry.find(key);
  if (it == entry.end() || !it->is_array()) fail_input("{}: {} must be a list of integers", where, key);
  Shape values;
  for (const json& value : *it) values.push_back(size_value(value, where, key));
  return values;
}

StoredTensor read_entry(const std::string& name, const json& entry, std::shared_ptr<const MappedFile> file,
                        int64_t data_begin) {
  std::string where = fmt::format("{}: tensor {}", file->path(), name);
  if (!entry.is_object()) fail_input("{}: its header entry is {}; an object is needed", where, entry.type_name());
  auto type = entry.find("dtype");
  if (type == entry.end() || !type->is_string()) fail_input("{}: dtype must be a string", where);
  StoredTensor t;
  t.info.name = name;
  t.info.encoding = type->get<std::string>();
  int64_t bytes = type_bytes(t.info.encoding);
  if (bytes == 0) fail_input("{}: dtype is {}; readable: {}", where, t.info.encoding, readable_encodings());
  t.info.shape = size_list(entry, "shape", where);
  Shape offsets = size_list(entry, "data_offsets", where);
  int64_t data_size = file->size() - data_begin;
  if (offsets.size() != 2 || offsets[0] > offsets[1])
    fail_input("{}: data_offsets is {}; [begin, end] with begin <= end is needed", where, shape_text(offsets));
  if (offsets[1] > data_size)
    fail_input("{}: data_offsets {} end beyond the file, which holds {} bytes of data (is it truncated?)", where,
               shape_text(offsets), data_size);
  t.info.stored_bytes = encoded_bytes(1, bytes, t.info.shape);
  if (t.info.stored_bytes != offsets[1] - offsets[0])
    fail_input("{}: data_offsets {} span {} bytes, but shape {} of {} {}", where, shape_text(offsets),
               offsets[1] - offsets[0], shape_text(t.info.shape), t.info.encoding,
               t.info.stored_bytes < 0 ? "overflows" : fmt::format("needs {}", t.info.stored_bytes));
  t.encoding = find_encoding(t.info.encoding);
  t.offset = data_begin + offsets[0];
  t.file = std::move(file);
  return t;
}

void check_cover(const std::vector<StoredTensor>& tensors, const MappedFile& file, int64_t data_begin) {
  int64_t at = data_begin;
  for (const StoredTensor& t : tensors) {
    if (t.offset < at)
      fail_input("{}: tensor {}: its data_offsets overlap those of another tensor by {} bytes", file.path(),
                 t.info.name, at - t.offset);
    if (t.offset > at)
      fail_input("{}: tensor {}: its data_offsets leave {} bytes before it that belong to no tensor", file.path(),
                 t.info.name, t.offset - at);
    at = t.offset + t.info.stored_bytes;
  }
  if (at != file.size())
    fail_input("{}: {} bytes at the end belong to no tensor (is the file damaged?)", file.path(), file.size() - at);
}

/// The tensors that an index file names, from its shards.
std::vector<StoredTensor> read_index(const fs::path& index) {
  json root = read_json_object(index.string());
  auto map = root.find("weight_map");
  if (map == root.end() || !map->is_object()) fail_input("{}: key weight_map must be an object", index.string());
  std::map<std::string, std::map<std::string, StoredTensor>> shards;
  std::vector<StoredTensor> all;
  for (const auto& [name, value] : map->items()) {
    std::string shard = value.is_string() ? value.get<std::string>() : "";
    if (shard.empty() || fs::path(shard).filename() != shard)
      fail_input("{}: weight_map: tensor {}: found {}; the name of a file in the same directory is needed",
                 index.string(), name, value.dump());
    std::string path = (index.parent_path() / shard).string();
    if (!shards.contains(shard)) {
      if (!fs::exists(path)) fail_input("{}: names the shard {}, which does not exist", index.string(), path);
      for (StoredTensor& t : read_safetensors_header(path)) shards[shard].emplace(t.info.name, std::move(t));
    }
    auto found = shards[shard].find(name);
    if (found == shards[shard].end())
      fail_input("{}: weight_map: tensor {} is not in its shard {}", index.string(), name, path);
    all.push_back(found->second);
  }
  return all;
}

}  // namespace

std::vector<StoredTensor> read_safetensors_header(const std::string& path) {
  auto file = std::make_shared<const MappedFile>(path);
  uint64_t length = 0;
  if (file->size() < 8)
    fail_input("{}: {} bytes long; a safetensors file begins with an 8-byte length", path, file->size());
  std::memcpy(&length, file->data(), sizeof(length));
  uint64_t left = static_cast<uint64_t>(file->size()) - 8;
  if (length > std::min(left, kMaxHeader))
    fail_input(
        "{}: the header's length is {}; at most {} is allowed in this file of {} bytes (not a safetensors file, or "
        "truncated)",
        path, length, std::min(left, kMaxHeader), file->size());
  std::string_view text(reinterpret_cast<const char*>(file->data()) + 8, length);
  json header = parse_json_object(text, path + " (header)");
  int64_t data_begin = 8 + static_cast<int64_t>(length);
  std::vector<StoredTensor> tensors;
  for (const auto& [name, entry] : header.items())
    if (name != "__metadata__") tensors.push_back(read_entry(name, entry, file, data_begin));
  std::stable_sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.offset, a.info.stored_bytes) < std::pair(b.offset, b.info.stored_bytes);
  });
  check_cover(tensors, *file, data_begin);
  return tensors;
}

std::shared_ptr<WeightSource> open_safetensors(const std::string& path) {
  fs::path file = path;
  if (fs::is_directory(file)) {
    fs::path single = file / "model.safetensors", index = file / "model.safetensors.index.json";
    if (!fs::exists(single) && !fs::exists(index))
      fail_input(
          "{}: holds neither model.safetensors nor model.safetensors.index.json; weights are read from "
          "safetensors or GGUF files",
          path);
    file = fs::exists(single) ? single : index;
  }
  bool sharded = file.extension() == ".json";
  return std::make_shared<TensorTable>(file.string() + " (safetensors)",
                                       sharded ? read_index(file) : read_safetensors_header(file.string()));
}

}  // namespace restkv
