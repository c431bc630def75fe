#include "model/weights/gguf_types.h"

#include <array>

namespace restkv {
namespace {

struct ValueType {
  std::string_view name;
  int64_t size;
};
constexpr std::array<ValueType, 13> kValueTypes{{{"u8", 1},
                                                 {"i8", 1},
                                                 {"u16", 2},
                                                 {"i16", 2},
                                                 {"u32", 4},
                                                 {"i32", 4},
                                                 {"f32", 4},
                                                 {"bool", 1},
                                                 {"string", 0},
                                                 {"array", 0},
                                                 {"u64", 8},
                                                 {"i64", 8},
                                                 {"f64", 8}}};

// Numbers, block sizes and block bytes as ggml fixes them. Which of these can be read: encoding.cc.
struct NumberedType {
  uint32_t number;
  GgmlType type;
};
constexpr std::array kGgmlTypes{
    NumberedType{0, {"F32", 1, 4}},         NumberedType{1, {"F16", 1, 2}},
    NumberedType{2, {"Q4_0", 32, 18}},      NumberedType{3, {"Q4_1", 32, 20}},
    NumberedType{6, {"Q5_0", 32, 22}},      NumberedType{7, {"Q5_1", 32, 24}},
    NumberedType{8, {"Q8_0", 32, 34}},      NumberedType{9, {"Q8_1", 32, 40}},
    NumberedType{10, {"Q2_K", 256, 84}},    NumberedType{11, {"Q3_K", 256, 110}},
    NumberedType{12, {"Q4_K", 256, 144}},   NumberedType{13, {"Q5_K", 256, 176}},
    NumberedType{14, {"Q6_K", 256, 210}},   NumberedType{15, {"Q8_K", 256, 292}},
    NumberedType{16, {"IQ2_XXS", 256, 66}}, NumberedType{17, {"IQ2_XS", 256, 74}},
    NumberedType{18, {"IQ3_XXS", 256, 98}}, NumberedType{19, {"IQ1_S", 256, 50}},
    NumberedType{20, {"IQ4_NL", 32, 18}},   NumberedType{21, {"IQ3_S", 256, 110}},
    NumberedType{22, {"IQ2_S", 256, 82}},   NumberedType{23, {"IQ4_XS", 256, 136}},
    NumberedType{24, {"I8", 1, 1}},         NumberedType{25, {"I16", 1, 2}},
    NumberedType{26, {"I32", 1, 4}},        NumberedType{27, {"I64", 1, 8}},
    NumberedType{28, {"F64", 1, 8}},        NumberedType{29, {"IQ1_M", 256, 56}},
    NumberedType{30, {"BF16", 1, 2}},       NumberedType{34, {"TQ1_0", 256, 54}},
    NumberedType{35, {"TQ2_0", 256, 66}},   NumberedType{39, {"MXFP4", 32, 17}},
};

}  // namespace

bool is_gguf_type(uint32_t number) { return number < kValueTypes.size(); }

std::string_view name_of(GgufType type) {
  auto i = static_cast<uint32_t>(type);
  return is_gguf_type(i) ? kValueTypes[i].name : "?";
}

int64_t size_of(GgufType type) {
  auto i = static_cast<uint32_t>(type);
  return is_gguf_type(i) ? kValueTypes[i].size : 0;
}

const GgmlType* find_ggml_type(uint32_t number) {
  for (const NumberedType& t : kGgmlTypes)
    if (t.number == number) return &t.type;
  return nullptr;
}

}  // namespace restkv
