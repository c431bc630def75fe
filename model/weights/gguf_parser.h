// One pass over the header of a GGUF file. Used by GgufFile alone.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/weights/gguf_file.h"

namespace restkv {

/// Calls in this order: header, values, tensors, place. Each throws InputError at the first number that the file
/// cannot hold; nothing is allocated by a count before it was checked.
class GgufParser {
 public:
  explicit GgufParser(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {}

  void header();
  void values(std::map<std::string, GgufValue>* values);
  /// Tensors in the order of the header; their offsets count from the start of the data.
  std::vector<StoredTensor> tensors();
  /// Makes the offsets absolute, checks them against the file and each other, and sorts by them.
  void place(std::vector<StoredTensor>* tensors, int64_t alignment);

 private:
  template <class T>
  T number(const std::string& what);
  std::string_view text(const std::string& what);
  std::string name(const std::string& what);
  /// A count of things that take at least `each` bytes.
  uint64_t count(uint64_t each, const std::string& what);
  GgufType type(const std::string& what);
  StoredTensor tensor(uint64_t index);
  void need(uint64_t bytes, const std::string& what) const;

  std::shared_ptr<const MappedFile> file_;
  int64_t at_ = 0;
  uint64_t tensor_count_ = 0;
  uint64_t value_count_ = 0;
};

}  // namespace restkv
