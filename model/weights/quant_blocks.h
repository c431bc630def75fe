// The quantised blocks of GGUF files, decoded to floats. Each function decodes `blocks` consecutive blocks. The layouts
// are those of the GGUF format (ggml): "_0" blocks hold scale * (q - offset), "_1" blocks scale * q + minimum, "_K"
// blocks 256 elements in sub-blocks whose scales are themselves quantised.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace restkv {

/// The half-precision number at p (any alignment), exactly. Branch-free, so that loops over it vectorise: the exponent
/// is re-biased by a multiplication, which also normalises subnormal halves.
inline float half_at(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  uint32_t value = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  value |= magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // infinity and NaN
  return std::bit_cast<float>(value | static_cast<uint32_t>(bits & 0x8000u) << 16);
}

void decode_q4_0(const std::byte* from, int64_t blocks, float* to);
void decode_q4_1(const std::byte* from, int64_t blocks, float* to);
void decode_q5_0(const std::byte* from, int64_t blocks, float* to);
void decode_q5_1(const std::byte* from, int64_t blocks, float* to);
void decode_q8_0(const std::byte* from, int64_t blocks, float* to);
void decode_q4_k(const std::byte* from, int64_t blocks, float* to);
void decode_q5_k(const std::byte* from, int64_t blocks, float* to);
void decode_q6_k(const std::byte* from, int64_t blocks, float* to);

}  // namespace restkv
