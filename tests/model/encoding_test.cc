// Every encoding against the gguf package's decoder (tests/data/make_gguf_fixtures.py), whole and in slices.
#include "model/weights/encoding.h"

#include <cmath>

#include "model/weights/gguf_file.h"
#include "model/weights/quant_blocks.h"
#include "model/weights/tensor_table.h"
#include "tests/model/weight_files.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

class EncodingTest : public ::testing::TestWithParam<const char*> {
 protected:
  EncodingTest()
      : file_(std::string(RESTKV_TEST_DATA "/gguf/") + GetParam() + ".gguf"), table_(file_.path(), file_.tensors()) {}

  GgufFile file_;
  TensorTable table_;
};

/// Equal up to one rounding of the largest value of the row: compilers may fuse scale * q + minimum.
void expect_same(const std::vector<float>& found, const std::vector<float>& expected, size_t cols) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t row = 0; row < found.size(); row += cols) {
    float largest = 0;
    for (size_t i = row; i < row + cols; ++i)
      if (std::isfinite(expected[i])) largest = std::max(largest, std::abs(expected[i]));
    for (size_t i = row; i < row + cols; ++i) {
      if (found[i] == expected[i]) continue;
      ASSERT_LE(std::abs(found[i] - expected[i]), kOpF32 * largest) << "element " << i;
    }
  }
}

TEST_P(EncodingTest, WholeTensor) {
  const WeightInfo& info = table_.info("x");
  ASSERT_EQ(info.encoding, GetParam());
  ASSERT_EQ(info.shape, (Shape{5, 768}));
  auto expected = read_f32(table_, "expected", {0, 5}, {0, 768});
  double sum = 0;
  for (float x : expected) sum += std::isfinite(x) ? std::abs(x) : 0;
  ASSERT_GT(sum, 1.0);
  expect_same(read_f32(table_, "x", {0, 5}, {0, 768}), expected, 768);
}

TEST_P(EncodingTest, SlicesAreCutFromTheWhole) {
  auto whole = read_f32(table_, "x", {0, 5}, {0, 768});
  // Edges on blocks, inside blocks, inside one block, across many, empty.
  for (Range cols : {Range{0, 768}, {0, 256}, {256, 768}, {31, 33}, {5, 9}, {100, 700}, {767, 768}, {384, 384}}) {
    for (Range rows : {Range{0, 5}, {1, 2}, {3, 5}, {2, 2}}) {
      auto slice = read_f32(table_, "x", rows, cols);
      auto half = read_bf16(table_, "x", rows, cols);
      size_t i = 0;
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        for (int64_t c = cols.begin; c < cols.end; ++c, ++i) {
          float expected = whole[static_cast<size_t>(r * 768 + c)];
          ASSERT_EQ(slice[i], expected) << r << ", " << c;
          ASSERT_EQ(half[i].bits, to_bf16(expected).bits) << r << ", " << c;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, EncodingTest,
                         ::testing::Values("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K",
                                           "Q6_K"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Half, EveryValueAgreesWithTheScalarConversion) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    auto half = static_cast<uint16_t>(bits);
    float expected = to_float(f16{half});
    float found = half_at(reinterpret_cast<const std::byte*>(&half));
    ASSERT_EQ(std::bit_cast<uint32_t>(found), std::bit_cast<uint32_t>(expected)) << bits;
  }
}

}  // namespace
}  // namespace restkv::testing
