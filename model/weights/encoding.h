// How a row of weights is stored: plain numbers, or blocks of quantised ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace restkv {

/// One stored encoding. A row is cut into blocks of `block` elements, each `block_bytes` long (block 1: plain numbers).
struct Encoding {
  std::string_view name;  ///< "F32", "BF16", "Q4_1", ...
  int64_t block;
  int64_t block_bytes;
  /// Decodes `blocks` consecutive blocks to block * blocks floats.
  void (*decode)(const std::byte* from, int64_t blocks, float* to);
};

/// The readable encoding of that name, or null.
const Encoding* find_encoding(std::string_view name);

/// "F32, F16, BF16, and in GGUF files Q4_0, ...": for messages.
std::string readable_encodings();

}  // namespace restkv
