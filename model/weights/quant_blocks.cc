#include "model/weights/quant_blocks.h"

namespace restkv {
namespace {

inline int byte_at(const std::byte* p) { return std::to_integer<int>(*p); }

inline uint32_t word_at(const std::byte* p) {
  uint32_t w;
  std::memcpy(&w, p, sizeof(w));
  return w;
}

/// The 16 bytes of a 32-element block: element j in the low half of byte j, element j + 16 in its high half.
inline void split_nibbles(const std::byte* q, int* low, int* high) {
  for (int j = 0; j < 16; ++j) {
    low[j] = byte_at(q + j) & 0xf;
    high[j] = byte_at(q + j) >> 4;
  }
}

/// The same with a fifth bit: bit j of `fifth` belongs to element j.
inline void split_nibbles5(const std::byte* q, uint32_t fifth, int* low, int* high) {
  split_nibbles(q, low, high);
  for (int j = 0; j < 16; ++j) {
    low[j] |= static_cast<int>((fifth >> j) & 1u) << 4;
    high[j] |= static_cast<int>((fifth >> (j + 16)) & 1u) << 4;
  }
}

inline void scale_halves(const int* low, const int* high, int offset, float scale, float minimum, float* to) {
  for (int j = 0; j < 16; ++j) {
    to[j] = scale * static_cast<float>(low[j] - offset) + minimum;
    to[j + 16] = scale * static_cast<float>(high[j] - offset) + minimum;
  }
}

/// Scales and minima of the eight 32-element sub-blocks of a Q4_K or Q5_K block, 6 bits each in 12 bytes: the low six
/// bits of bytes 0-3 and 4-7 are those of sub-blocks 0-3; sub-blocks 4-7 have their low four bits in bytes 8-11 and
/// their high two bits on top of bytes 0-7.
struct SubScales {
  int scale[8];
  int minimum[8];
};

SubScales unpack_sub_scales(const std::byte* p) {
  SubScales s;
  for (int j = 0; j < 4; ++j) {
    int a = byte_at(p + j), b = byte_at(p + 4 + j), c = byte_at(p + 8 + j);
    s.scale[j] = a & 63;
    s.minimum[j] = b & 63;
    s.scale[j + 4] = (c & 0xf) | (a >> 6) << 4;
    s.minimum[j + 4] = (c >> 4) | (b >> 6) << 4;
  }
  return s;
}

}  // namespace

void decode_q4_0(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += 18, to += 32) {
    int low[16], high[16];
    split_nibbles(from + 2, low, high);
    scale_halves(low, high, 8, half_at(from), 0.0f, to);
  }
}

void decode_q4_1(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += 20, to += 32) {
    int low[16], high[16];
    split_nibbles(from + 4, low, high);
    scale_halves(low, high, 0, half_at(from), half_at(from + 2), to);
  }
}

void decode_q5_0(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += 22, to += 32) {
    int low[16], high[16];
    split_nibbles5(from + 6, word_at(from + 2), low, high);
    scale_halves(low, high, 16, half_at(from), 0.0f, to);
  }
}

void decode_q5_1(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += 24, to += 32) {
    int low[16], high[16];
    split_nibbles5(from + 8, word_at(from + 4), low, high);
    scale_halves(low, high, 0, half_at(from), half_at(from + 2), to);
  }
}

void decode_q8_0(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += 34, to += 32) {
    float scale = half_at(from);
    for (int j = 0; j < 32; ++j) to[j] = scale * static_cast<float>(static_cast<int8_t>(from[2 + j]));
  }
}

void decode_q4_k(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += 144, to += 256) {
    float scale = half_at(from), minimum = half_at(from + 2);
    SubScales sub = unpack_sub_scales(from + 4);
    // Each 32 bytes hold two sub-blocks: the even one in the low halves, the odd one in the high halves.
    for (int s = 0; s < 8; ++s) {
      const std::byte* q = from + 16 + 32 * (s / 2);
      int shift = 4 * (s % 2);
      float a = scale * static_cast<float>(sub.scale[s]);
      float m = minimum * static_cast<float>(sub.minimum[s]);
      for (int j = 0; j < 32; ++j) to[32 * s + j] = a * static_cast<float>(byte_at(q + j) >> shift & 0xf) - m;
    }
  }
}

void decode_q5_k(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += 176, to += 256) {
    float scale = half_at(from), minimum = half_at(from + 2);
    SubScales sub = unpack_sub_scales(from + 4);
    const std::byte* fifth = from + 16;  // bit s of byte j: the fifth bit of element j of sub-block s
    for (int s = 0; s < 8; ++s) {
      const std::byte* q = from + 48 + 32 * (s / 2);
      int shift = 4 * (s % 2);
      float a = scale * static_cast<float>(sub.scale[s]);
      float m = minimum * static_cast<float>(sub.minimum[s]);
      for (int j = 0; j < 32; ++j) {
        int value = (byte_at(q + j) >> shift & 0xf) | (byte_at(fifth + j) >> s & 1) << 4;
        to[32 * s + j] = a * static_cast<float>(value) - m;
      }
    }
  }
}

void decode_q6_k(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += 210, to += 256) {
    const std::byte* scales = from + 192;  // int8, one per 16 elements
    float scale = half_at(from + 208);
    // Two halves of 128 elements: 64 bytes of low bits and 32 bytes of high bit pairs each, four runs of 32 elements.
    for (int run = 0; run < 8; ++run) {
      const std::byte* low = from + 64 * (run / 4) + 32 * (run % 2);
      const std::byte* high = from + 128 + 32 * (run / 4);
      int low_shift = run % 4 >= 2 ? 4 : 0;
      int high_shift = 2 * (run % 4);
      for (int j = 0; j < 32; ++j) {
        float a = scale * static_cast<float>(static_cast<int8_t>(scales[2 * run + j / 16]));
        int value = (byte_at(low + j) >> low_shift & 0xf) | (byte_at(high + j) >> high_shift & 3) << 4;
        to[32 * run + j] = a * static_cast<float>(value - 32);
      }
    }
  }
}

}  // namespace restkv
