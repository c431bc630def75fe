#include "model/weights/encoding.h"

#include <array>
#include <cstring>

#include "dist/base/dtype.h"
#include "model/weights/quant_blocks.h"

namespace restkv {
namespace {

void decode_f32(const std::byte* from, int64_t n, float* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

void decode_f16(const std::byte* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = half_at(from + 2 * i);
}

void decode_bf16(const std::byte* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) {
    bf16 x;
    std::memcpy(&x, from + 2 * i, sizeof(x));
    to[i] = to_float(x);
  }
}

// Block sizes and bytes are those of the GGUF format (ggml's block_q* structures).
constexpr std::array<Encoding, 11> kEncodings{{
    {"F32", 1, 4, decode_f32},
    {"F16", 1, 2, decode_f16},
    {"BF16", 1, 2, decode_bf16},
    {"Q4_0", 32, 18, decode_q4_0},
    {"Q4_1", 32, 20, decode_q4_1},
    {"Q5_0", 32, 22, decode_q5_0},
    {"Q5_1", 32, 24, decode_q5_1},
    {"Q8_0", 32, 34, decode_q8_0},
    {"Q4_K", 256, 144, decode_q4_k},
    {"Q5_K", 256, 176, decode_q5_k},
    {"Q6_K", 256, 210, decode_q6_k},
}};

}  // namespace

const Encoding* find_encoding(std::string_view name) {
  for (const Encoding& e : kEncodings)
    if (e.name == name) return &e;
  return nullptr;
}

std::string readable_encodings() {
  std::string plain, blocks;
  for (const Encoding& e : kEncodings) {
    std::string& list = e.block == 1 ? plain : blocks;
    if (!list.empty()) list += ", ";
    list += e.name;
  }
  return plain + ", and in GGUF files " + blocks;
}

}  // namespace restkv
