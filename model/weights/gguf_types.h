// The type numbers of GGUF files: metadata values and tensor encodings.
#pragma once

#include <cstdint>
#include <string>

#include "model/weights/gguf_file.h"

namespace restkv {

/// "u32", "string", ...; "?" for a number that is no type.
std::string_view name_of(GgufType type);
/// Bytes of one value; 0 for strings and arrays.
int64_t size_of(GgufType type);
bool is_gguf_type(uint32_t number);

/// A tensor encoding by its number in the file.
struct GgmlType {
  std::string_view name;
  int64_t block;  ///< elements
  int64_t block_bytes;
};
/// Null for a number that is not known.
const GgmlType* find_ggml_type(uint32_t number);

}  // namespace restkv
