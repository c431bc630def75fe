// Element types and devices, chosen at run time.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace restkv {

enum class DType { f32, bf16, f16, f64, i32, i64, u32, u64, u8 };

int64_t size_of(DType dtype);
std::string_view name_of(DType dtype);

enum class Device { cpu, gpu };

std::string_view name_of(Device device);

/// bf16 as its 16 bits; the upper half of an IEEE float.
struct bf16 {
  uint16_t bits;
};

/// IEEE half precision as its 16 bits.
struct f16 {
  uint16_t bits;
};

inline float to_float(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

/// Rounds to nearest, ties to even; NaN stays NaN.
inline bf16 to_bf16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

float to_float(f16 x);
f16 to_f16(float x);

/// The DType of a C++ type: dtype_of<float>() == DType::f32.
template <class T>
constexpr DType dtype_of();
// clang-format off
template <> constexpr DType dtype_of<float>() { return DType::f32; }
template <> constexpr DType dtype_of<double>() { return DType::f64; }
template <> constexpr DType dtype_of<bf16>() { return DType::bf16; }
template <> constexpr DType dtype_of<f16>() { return DType::f16; }
template <> constexpr DType dtype_of<int32_t>() { return DType::i32; }
template <> constexpr DType dtype_of<int64_t>() { return DType::i64; }
template <> constexpr DType dtype_of<uint32_t>() { return DType::u32; }
template <> constexpr DType dtype_of<uint64_t>() { return DType::u64; }
template <> constexpr DType dtype_of<uint8_t>() { return DType::u8; }
// clang-format on

}  // namespace restkv
