// The GPU versions of the ops against their CPU twins, on the same bf16 values. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "dist/base/error.h"
#include "model/ops/add.h"
#include "model/ops/attention_prefill.h"
#include "model/ops/embedding.h"
#include "model/ops/merge_attention.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rope.h"
#include "model/ops/swiglu.h"
#include "tests/gpu_test.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

// One matrix in both forms: f32 for the CPU op, bf16 for the GPU op, the same values.
struct Both {
  std::vector<float> cpu;
  Tensor gpu;
  int64_t rows, cols;

  MatrixView on_cpu() { return MatrixView(cpu.data(), rows, cols); }
  MatrixView on_gpu() { return MatrixView(gpu); }
};

class OpsGpu : public testing::GpuTest {
 protected:
  Both random(int64_t rows, int64_t cols, uint32_t seed, float scale = 1.0f) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, scale);
    Both both{std::vector<float>(static_cast<size_t>(rows * cols)), {}, rows, cols};
    std::vector<bf16> half;
    for (float& x : both.cpu) {
      half.push_back(to_bf16(normal(rng)));
      x = to_float(half.back());
    }
    both.gpu = gpu->to_device(half.data(), DType::bf16, {rows, cols});
    return both;
  }

  // Poisoned with NaN, so that an element nobody writes is found.
  Both output(int64_t rows, int64_t cols) {
    Both both = random(rows, cols, 1);
    std::vector<bf16> poison(both.cpu.size(), to_bf16(NAN));
    both.gpu = gpu->to_device(poison.data(), DType::bf16, {rows, cols});
    return both;
  }

  void expect_close(const Both& both, double tolerance) {
    std::vector<bf16> got = gpu->to_host<bf16>(both.gpu);
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(std::isfinite(to_float(got[i]))) << "element " << i;
      difference += std::pow(to_float(got[i]) - both.cpu[i], 2);
      norm += std::pow(both.cpu[i], 2);
    }
    ASSERT_GT(norm, 0.0);
    EXPECT_LT(std::sqrt(difference / norm), tolerance);
  }

  Context cpu{Context::Options{Device::cpu}};
};

TEST_F(OpsGpu, Gemm) {
  for (auto [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 64, 64}, {130, 192, 576}, {1024, 1000, 264}})
    for (bool accumulate : {false, true}) {
      Both x = random(m, k, 2), w = random(n, k, 3, 0.1f), y = random(m, n, 4);
      gemm(cpu, x.on_cpu(), w.on_cpu(), y.on_cpu(), accumulate);
      gemm(*gpu, x.on_gpu(), w.on_gpu(), y.on_gpu(), accumulate);
      expect_close(y, testing::kOpBf16);
    }
}

TEST_F(OpsGpu, RmsNormSwigluAdd) {
  for (int64_t n : {1, 7, 1000})
    for (int64_t H : {64, 576, 4096, 8192}) {
      Both x = random(n, H, 5), w = random(1, H, 6), y = output(n, H);
      Tensor w_gpu = gpu->to_device(w.cpu.data(), DType::f32, {H});
      rms_norm(cpu, x.on_cpu(), Tensor::view(w.cpu.data(), DType::f32, {H}), y.on_cpu(), 1e-5);
      rms_norm(*gpu, x.on_gpu(), w_gpu, y.on_gpu(), 1e-5);
      expect_close(y, testing::kOpBf16);

      Both gate_up = random(n, 2 * H, 7, 3.0f), z = output(n, H);
      swiglu(cpu, gate_up.on_cpu(), z.on_cpu());
      swiglu(*gpu, gate_up.on_gpu(), z.on_gpu());
      expect_close(z, testing::kOpBf16);
      geglu(cpu, gate_up.on_cpu(), z.on_cpu());
      geglu(*gpu, gate_up.on_gpu(), z.on_gpu());
      expect_close(z, testing::kOpBf16);

      add(cpu, x.on_cpu(), z.on_cpu());
      add(*gpu, x.on_gpu(), z.on_gpu());
      expect_close(x, testing::kOpBf16);
    }
}

TEST_F(OpsGpu, SwigluBeyondTheGridsSecondDimension) {
  int64_t n = 70000, I = 8;
  Both gate_up = random(n, 2 * I, 7), z = output(n, I);
  swiglu(cpu, gate_up.on_cpu(), z.on_cpu());
  swiglu(*gpu, gate_up.on_gpu(), z.on_gpu());
  expect_close(z, testing::kOpBf16);
}

TEST_F(OpsGpu, RopeAtLargePositions) {
  for (int64_t d : {64, 128, 256}) {
    std::vector<int64_t> positions = {0, 1, 77, 5000, 131071, 1000000};
    int64_t n = static_cast<int64_t>(positions.size()), heads = 3;
    RopeConfig config;
    config.theta = 500000.0;
    auto frequencies = rope_frequencies(config, d);
    Both x = random(n, heads * d, 8);
    apply_rope(cpu, x.on_cpu(), d, rope_table(cpu, frequencies, positions, 1.25));
    apply_rope(*gpu, x.on_gpu(), d, rope_table(*gpu, frequencies, positions, 1.25));
    expect_close(x, testing::kOpBf16);
  }
}

TEST_F(OpsGpu, Embedding) {
  Both table = random(40, 64, 9), y = output(6, 64);
  std::vector<int32_t> tokens = {100, 139, 99, 140, 120, 100};
  for (float scale : {1.0f, 0.5f}) {  // powers of two: the rows are copies, and no bf16 rounding comes in
    embed(cpu, Tensor::view(table.cpu.data(), DType::f32, {40, 64}), {100, 140}, tokens, y.on_cpu(), scale);
    embed(*gpu, table.gpu, {100, 140}, tokens, y.on_gpu(), scale);
    expect_close(y, 1e-7);
  }
  embed(cpu, Tensor::view(table.cpu.data(), DType::f32, {40, 64}), {100, 140}, tokens, y.on_cpu(), 1.5f);
  embed(*gpu, table.gpu, {100, 140}, tokens, y.on_gpu(), 1.5f);
  expect_close(y, testing::kOpBf16);
}

struct AttentionCase {
  int64_t first, n, Hq, Hkv, d;
};

class AttentionBase : public OpsGpu {
 protected:
  void compare(const AttentionCase& c);
};
class AttentionGpu : public AttentionBase, public ::testing::WithParamInterface<AttentionCase> {};

void AttentionBase::compare(const AttentionCase& c) {
  int64_t keys = c.first + c.n;
  Both q = random(c.n, c.Hq * c.d, 10, 1.5f), k = random(keys, c.Hkv * c.d, 11), v = random(keys, c.Hkv * c.d, 12);
  Both out = output(c.n, c.Hq * c.d);
  HeadLayout heads{c.Hq, c.Hkv, c.d, {{0, c.Hq}, {0, c.Hkv}}};
  std::vector<int64_t> offsets, lengths(static_cast<size_t>(c.Hkv), keys);
  for (int64_t g = 0; g < c.Hkv; ++g) offsets.push_back(g * c.d);
  double scale = 1.0 / std::sqrt(static_cast<double>(c.d));
  KvView on_cpu{k.cpu.data(), v.cpu.data(), DType::f32, c.Hkv, c.d, c.Hkv * c.d, offsets.data(), lengths.data()};
  KvView on_gpu = on_cpu;
  on_gpu.k = k.gpu.raw();
  on_gpu.v = v.gpu.raw();
  on_gpu.dtype = DType::bf16;
  attention_prefill(cpu, {q.on_cpu(), out.on_cpu(), c.first, scale}, on_cpu, heads);
  attention_prefill(*gpu, {q.on_gpu(), out.on_gpu(), c.first, scale}, on_gpu, heads);
  expect_close(out, testing::kOpBf16);
  // In place, as prefill calls it.
  attention_prefill(*gpu, {q.on_gpu(), q.on_gpu(), c.first, scale}, on_gpu, heads);
  std::vector<bf16> in_place = gpu->to_host<bf16>(q.gpu), apart = gpu->to_host<bf16>(out.gpu);
  EXPECT_EQ(0, std::memcmp(in_place.data(), apart.data(), sizeof(bf16) * apart.size()));
}

TEST_P(AttentionGpu, PrefillAttention) { compare(GetParam()); }

// Plans are kept: a later shape must not run as an earlier one.
TEST_F(AttentionBase, ManyShapesOnOneContext) {
  for (int64_t n : {64, 700, 65, 2000, 64})
    for (int64_t first : {0, 256}) compare({first, n, 4, 2, 128});
}

// Blocks of a ring: rows over keys that all of them see, and the log-sum-exp with which blocks are merged.
TEST_F(AttentionBase, LogSumExpAndKeysSeenByAll) {
  for (auto [n, keys, first, Hq, Hkv, d] :
       {std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>{300, 300, 0, 4, 2, 128},
        {300, 1000, 512, 6, 2, 64},
        {384, 1000, 1000, 8, 2, 128},
        {1000, 128, 128, 4, 4, 64},
        {77, 2048, 5000, 3, 1, 128},
        {9000, 640, 640, 2, 1, 64}}) {
    SCOPED_TRACE(fmt::format("{} rows from {}, {} keys, {}/{} heads of {}", n, first, keys, Hq, Hkv, d));
    const int64_t ld = n + 8;
    Both q = random(n, Hq * d, 30, 1.5f), k = random(keys, Hkv * d, 31), v = random(keys, Hkv * d, 32);
    Both out = output(n, Hq * d);
    HeadLayout heads{Hq, Hkv, d, {{0, Hq}, {0, Hkv}}};
    std::vector<int64_t> offsets, lengths(static_cast<size_t>(Hkv), keys);
    for (int64_t g = 0; g < Hkv; ++g) offsets.push_back(g * d);
    const double scale = 1.0 / std::sqrt(static_cast<double>(d));
    KvView on_cpu{k.cpu.data(), v.cpu.data(), DType::f32, Hkv, d, Hkv * d, offsets.data(), lengths.data()};
    KvView on_gpu{k.gpu.raw(), v.gpu.raw(), DType::bf16, Hkv, d, Hkv * d, offsets.data(), lengths.data()};
    std::vector<float> want(static_cast<size_t>(Hq * ld), NAN);
    Tensor lse = gpu->to_device(want.data(), DType::f32, {Hq, ld});
    attention_prefill(cpu, {q.on_cpu(), out.on_cpu(), first, scale, 0, 0.0, want.data(), ld}, on_cpu, heads);
    attention_prefill(*gpu, {q.on_gpu(), out.on_gpu(), first, scale, 0, 0.0, lse.data<float>(), ld}, on_gpu, heads);
    expect_close(out, testing::kOpBf16);
    const std::vector<float> got = gpu->to_host<float>(lse);
    for (int64_t h = 0; h < Hq; ++h)
      for (int64_t i = 0; i < ld; ++i) {
        if (i >= n) {
          ASSERT_TRUE(std::isnan(got[h * ld + i])) << "written behind the rows of head " << h;
        } else {
          ASSERT_NEAR(got[h * ld + i], want[h * ld + i], testing::kLogSumExp) << "head " << h << ", row " << i;
        }
      }
  }
}

TEST_F(AttentionBase, MergedParts) {
  const int64_t n = 700, heads = 6, d = 64, width = heads * d, ld = n + 4;
  Both part = random(n, width, 40);
  std::mt19937 rng(41);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> total(static_cast<size_t>(n * width)), total_lse(static_cast<size_t>(heads * ld)),
      part_lse(total_lse.size());
  for (float& x : total) x = normal(rng);
  for (float& x : total_lse) x = normal(rng);
  for (size_t i = 0; i < part_lse.size(); ++i) part_lse[i] = i % 5 == 0 ? -INFINITY : normal(rng);
  for (size_t i = 0; i < total_lse.size(); i += 7) total_lse[i] = -INFINITY;
  for (bool is_empty : {true, false})
    for (bool last : {false, true}) {
      Both result = output(n, width);
      std::vector<float> cpu_total = total, cpu_lse = total_lse;
      Tensor gpu_total = gpu->to_device(total.data(), DType::f32, {n, width});
      Tensor gpu_lse = gpu->to_device(total_lse.data(), DType::f32, {heads, ld});
      Tensor gpu_part_lse = gpu->to_device(part_lse.data(), DType::f32, {heads, ld});
      merge_attention(cpu, {part.on_cpu(), part_lse.data(), ld},
                      {MatrixView(cpu_total.data(), n, width), cpu_lse.data(), ld, is_empty}, d,
                      last ? result.on_cpu() : MatrixView());
      merge_attention(*gpu, {part.on_gpu(), gpu_part_lse.data<float>(), ld},
                      {MatrixView(gpu_total), gpu_lse.data<float>(), ld, is_empty}, d,
                      last ? result.on_gpu() : MatrixView());
      if (last) expect_close(result, testing::kOpBf16);
      const auto got = gpu->to_host<float>(gpu_total), lse = gpu->to_host<float>(gpu_lse);
      for (size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], cpu_total[i], 1e-5f * (1.0f + std::abs(cpu_total[i]))) << "element " << i;
      for (size_t i = 0; i < lse.size(); ++i) {
        if (std::isinf(cpu_lse[i])) {
          ASSERT_EQ(lse[i], cpu_lse[i]) << "log-sum-exp " << i;
        } else {
          ASSERT_NEAR(lse[i], cpu_lse[i], 1e-5f) << "log-sum-exp " << i;
        }
      }
    }
}

// What makes whole prefills equal on every sequence layout: a row's bits depend neither on the rows it is computed with
// nor on where a chunk begins.
TEST_F(AttentionBase, RowsAreTheSameBitsInAnyChunk) {
  const int64_t L = 20096, Hq = 4, Hkv = 2, d = 128;  // no chunk below ends with fewer rows than a tile
  Both q = random(L, Hq * d, 50, 1.5f), k = random(L, Hkv * d, 51), v = random(L, Hkv * d, 52);
  HeadLayout heads{Hq, Hkv, d, {{0, Hq}, {0, Hkv}}};
  std::vector<int64_t> offsets = {0, d}, lengths = {L, L};
  KvView kv{k.gpu.raw(), v.gpu.raw(), DType::bf16, Hkv, d, Hkv * d, offsets.data(), lengths.data()};
  const double scale = 1.0 / std::sqrt(static_cast<double>(d));
  Tensor whole = gpu->empty(DType::bf16, {L, Hq * d}), part = gpu->empty(DType::bf16, {L, Hq * d});
  attention_prefill(*gpu, {q.on_gpu(), MatrixView(whole), 0, scale}, kv, heads);
  const auto want = gpu->to_host<bf16>(whole);
  for (int64_t chunk : {128, 1024, 3200, 5120, 9984}) {
    for (int64_t first = 0; first < L; first += chunk) {
      const int64_t n = std::min(chunk, L - first);
      attention_prefill(
          *gpu, {q.on_gpu().block(first, n, 0, Hq * d), MatrixView(part).block(first, n, 0, Hq * d), first, scale}, kv,
          heads);
    }
    const auto got = gpu->to_host<bf16>(part);
    int64_t other = 0, where = -1;
    for (int64_t i = 0; i < L; ++i)
      if (std::memcmp(&got[i * Hq * d], &want[i * Hq * d], static_cast<size_t>(Hq * d) * sizeof(bf16)) != 0) {
        if (where < 0) where = i;
        ++other;
      }
    EXPECT_EQ(other, 0) << "chunks of " << chunk << ": " << other << " rows with other bits, the first is " << where;
  }
}

TEST_F(OpsGpu, GemmRowsAreTheSameBitsInAnySlice) {
  const int64_t L = 4096;
  for (auto [N, K] : {std::pair<int64_t, int64_t>{1024, 4096}, {4096, 4096}, {704, 256}, {256, 704}})
    for (DType dtype : {DType::bf16, DType::f32}) {
      Both x = random(L, K, 60), w = random(N, K, 61, 0.1f);
      Tensor whole = gpu->zeros(dtype, {L, N}), part = gpu->zeros(dtype, {L, N});
      const int64_t row_bytes = N * size_of(dtype);
      gemm(*gpu, x.on_gpu(), w.on_gpu(), MatrixView(whole));
      std::vector<char> want(static_cast<size_t>(whole.bytes())), got(want.size());
      gpu->to_host(whole.raw(), want.data(), whole.bytes());
      for (int64_t slice : {128, 640, 1920, 3000}) {
        for (int64_t first = 0; first < L; first += slice) {
          const int64_t n = std::min(slice, L - first);
          if (n < kGemmTileRows) continue;  // promised from a tile on
          gemm(*gpu, x.on_gpu().block(first, n, 0, K), w.on_gpu(), MatrixView(part).block(first, n, 0, N));
        }
        gpu->to_host(part.raw(), got.data(), part.bytes());
        int64_t other = 0, where = -1, compared = L / slice * slice + (L % slice >= kGemmTileRows ? L % slice : 0);
        for (int64_t i = 0; i < compared; ++i)
          if (std::memcmp(&got[i * row_bytes], &want[i * row_bytes], static_cast<size_t>(row_bytes)) != 0) {
            if (where < 0) where = i;
            ++other;
          }
        EXPECT_EQ(other, 0) << "[" << L << ", " << K << "] x [" << N << "] into " << name_of(dtype) << ", slices of "
                            << slice << ": " << other << " rows with other bits, the first is " << where;
      }
    }
}

// Where offsets pass 32 bits: the first and the last rows of a long prompt against the CPU twin, which computes those
// alone.
class LongAttentionGpu : public OpsGpu, public ::testing::WithParamInterface<AttentionCase> {};

TEST_P(LongAttentionGpu, FirstAndLastRows) {
  const auto [first, L, Hq, Hkv, d] = GetParam();
  constexpr int64_t kRows = 128;
  Both q = random(L, Hq * d, 20, 1.5f), k = random(L, Hkv * d, 21), v = random(L, Hkv * d, 22);
  HeadLayout heads{Hq, Hkv, d, {{0, Hq}, {0, Hkv}}};
  std::vector<int64_t> offsets, lengths(static_cast<size_t>(Hkv), L);
  for (int64_t g = 0; g < Hkv; ++g) offsets.push_back(g * d);
  const double scale = 1.0 / std::sqrt(static_cast<double>(d));
  KvView on_cpu{k.cpu.data(), v.cpu.data(), DType::f32, Hkv, d, Hkv * d, offsets.data(), lengths.data()};
  KvView on_gpu{k.gpu.raw(), v.gpu.raw(), DType::bf16, Hkv, d, Hkv * d, offsets.data(), lengths.data()};
  attention_prefill(*gpu, {q.on_gpu(), q.on_gpu(), 0, scale}, on_gpu, heads);
  for (int64_t row : {int64_t{0}, L / 2, L - kRows}) {
    Both part{std::vector<float>(static_cast<size_t>(kRows * Hq * d)), q.gpu.rows(row, kRows), kRows, Hq * d};
    attention_prefill(cpu, {q.on_cpu().block(row, kRows, 0, Hq * d), part.on_cpu(), row, scale}, on_cpu, heads);
    SCOPED_TRACE(row);
    expect_close(part, testing::kOpBf16);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, LongAttentionGpu,
                         ::testing::Values(AttentionCase{0, 131072, 2, 1, 128}, AttentionCase{0, 131072, 3, 1, 64},
                                           AttentionCase{0, 262144, 2, 1, 128}, AttentionCase{0, 262144, 2, 1, 64}));

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionGpu,
                         ::testing::Values(AttentionCase{0, 1, 2, 2, 64}, AttentionCase{0, 300, 4, 1, 64},
                                           AttentionCase{0, 1000, 8, 2, 128}, AttentionCase{128, 128, 8, 2, 128},
                                           AttentionCase{384, 77, 6, 2, 64}, AttentionCase{640, 1000, 3, 1, 128},
                                           AttentionCase{0, 517, 2, 2, 256}, AttentionCase{1024, 333, 8, 8, 256}));

}  // namespace
}  // namespace restkv
