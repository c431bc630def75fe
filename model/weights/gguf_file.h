// One GGUF file (version 2 or 3, little-endian): its metadata, typed, and where its tensors lie.
// Format: ggml's docs/gguf.md. Every count, length and offset is checked against the file before it is used.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/weights/mapped_file.h"
#include "model/weights/stored_tensor.h"

namespace restkv {

enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// Where a metadata value lies; it is decoded when it is asked for.
struct GgufValue {
  GgufType type = GgufType::u8;  ///< of the value, or of the elements of an array
  bool array = false;
  int64_t count = 1;   ///< elements; 1 for a single value
  int64_t offset = 0;  ///< of the first element in the file
};

class GgufFile {
 public:
  /// Throws InputError naming the file, the key or tensor, what was found and what is allowed.
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return file_->path(); }
  /// The tensors under their names in the file, with the logical shape (rows first), by place in the file.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  /// Null when there is none.
  const StoredTensor* find_tensor(const std::string& stored_name) const;
  /// All floats of a small tensor, whatever its shape.
  std::vector<float> read_vector(const StoredTensor& tensor) const;

  std::vector<std::string> keys() const;
  bool has(const std::string& key) const { return values_.contains(key); }

  // Each throws InputError when the key is missing or holds another kind of value. The forms with a second argument
  // return it when the key is missing. Any integer type is accepted for an integer that fits.
  std::string get_string(const std::string& key) const;
  std::string get_string(const std::string& key, const std::string& otherwise) const;
  int64_t get_integer(const std::string& key) const;
  int64_t get_integer(const std::string& key, int64_t otherwise) const;
  double get_number(const std::string& key) const;
  double get_number(const std::string& key, double otherwise) const;
  bool get_bool(const std::string& key, bool otherwise) const;
  std::vector<std::string> get_strings(const std::string& key) const;
  std::vector<int64_t> get_integers(const std::string& key) const;
  std::vector<float> get_floats(const std::string& key) const;

  /// Throws InputError: "FILE: key KEY: found VALUE; ALLOWED". Lists are shown by type and length.
  [[noreturn]] void reject(const std::string& key, const std::string& allowed) const;

 private:
  const GgufValue& find(const std::string& key, bool array, const char* wanted) const;
  int64_t integer_at(const std::string& key, GgufType type, int64_t offset) const;
  std::string_view string_at(int64_t offset) const;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, GgufValue> values_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace restkv
