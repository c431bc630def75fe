// Random weights on the GPU have the bits of those on the CPU. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "dist/base/error.h"
#include "model/presets.h"
#include "model/weights/random_fill.h"
#include "model/weights/random_source.h"
#include "tests/gpu_test.h"

namespace restkv {
namespace {

class RandomFillGpu : public testing::GpuTest {
 protected:
  /// `shift` elements into a larger array, so that rows need not be aligned; both sides poisoned.
  template <class T>
  void compare(const RandomElements& e, int64_t shift) {
    int64_t rows = e.rows.size(), cols = e.cols.size(), n = rows * cols;
    std::vector<T> poison(static_cast<size_t>(n + 2 * shift));
    std::memset(poison.data(), 0xff, poison.size() * sizeof(T));  // NaN
    std::vector<T> expected = poison;
    random_rows(e, dtype_of<T>(), expected.data() + shift);
    Tensor all = gpu->to_device(poison.data(), dtype_of<T>(), {n + 2 * shift});
    random_fill(*gpu, e, all.rows(shift, n).reshape({rows, cols}));
    std::vector<T> got = gpu->to_host<T>(all);
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(0, std::memcmp(&got[i], &expected[i], sizeof(T))) << "element " << i << " of " << rows << " x " << cols;
  }
};

TEST_F(RandomFillGpu, SlicesOfAllShapes) {
  for (auto [rows, cols] : {std::tuple<Range, Range>{{0, 64}, {0, 512}},
                            {{3, 9}, {8, 24}},
                            {{1, 40}, {5, 42}},  // neither start nor width in eights
                            {{0, 1}, {0, 4096}},
                            {{7, 7}, {0, 16}},
                            {{1 << 20, (1 << 20) + 70}, {0, 3000}}})
    for (float center : {0.0f, 1.0f})
      for (int64_t shift : {0, 8, 3}) {
        RandomElements e;
        e.key = 0x123456789abcdefull;
        e.width = int64_t{1} << 14;
        e.rows = rows;
        e.cols = cols;
        e.center = center;
        e.half_width = center == 0.0f ? 0.027f : 0.1f;
        compare<bf16>(e, shift);
        compare<float>(e, shift);
      }
}

TEST_F(RandomFillGpu, SourceFillsWhatItReads) {
  RandomSource source(preset_config("tiny"), 11, 2.0);
  const char* name = "model.layers.1.self_attn.o_proj.weight";
  Range rows{0, 256}, cols{64, 192};
  Tensor out = gpu->empty(DType::bf16, {rows.size(), cols.size()});
  ASSERT_TRUE(source.fill(*gpu, name, rows, cols, out));
  std::vector<bf16> got = gpu->to_host<bf16>(out), expected(got.size());
  source.read(name, rows, cols, DType::bf16, expected.data());
  EXPECT_EQ(0, std::memcmp(got.data(), expected.data(), got.size() * sizeof(bf16)));
}

// Element numbers beyond 2^31: 4 GiB.
TEST_F(RandomFillGpu, LargeTensor) {
  RandomElements e;
  e.key = 5;
  e.width = 1 << 15;
  e.rows = {0, (1 << 16) + 16};
  e.cols = {0, 1 << 15};
  Tensor out = gpu->empty(DType::bf16, {e.rows.size(), e.cols.size()});
  random_fill(*gpu, e, out);
  e.rows = {(1 << 16) + 8, (1 << 16) + 16};
  std::vector<bf16> tail = gpu->to_host<bf16>(out.rows(1 << 16, 16).rows(8, 8)), expected(tail.size());
  random_rows(e, DType::bf16, expected.data());
  EXPECT_EQ(0, std::memcmp(tail.data(), expected.data(), tail.size() * sizeof(bf16)));
}

}  // namespace
}  // namespace restkv
