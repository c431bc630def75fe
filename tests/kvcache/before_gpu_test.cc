// The kernels of ReST-KV's mode `before` on a GPU, by name, against the CPU: values close to outputs of the window and
// equal to them, values with a large mean, windows of any length, positions moved. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "dist/base/error.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/scores/reconstruction_kernels.h"
#include "tests/gpu_test.h"
#include "tests/kvcache/scoring_layer.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

struct BeforeCase {
  int64_t L, W;
  HeadLayout heads;
  float mean = 0.0f;  // of all values
  BeforeOptions options = {};
};

// One layer's inputs of mode `before`. With a mean of 0 every 17th value lies 2^-6 to 1 away from one window output,
// some on it; half of them are seen by that row alone.
struct BeforeInput {
  BeforeCase c;
  std::vector<float> logits, softmax, o, v, r;  // [Hq_lc, W, L], [Hq_lc * W, 2], [Hq_lc, W, d], [L, Hkv_lc, d]

  BeforeInput(const BeforeCase& c_, uint32_t seed) : c(c_) {
    const int64_t Hq = c.heads.Hq_lc(), Hkv = c.heads.Hkv_lc(), d = c.heads.d;
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> unit;
    for (int64_t row = 0; row < Hq * c.W; ++row) {
      const float max = 3.0f * normal(random);  // weights are exp(logit - max)
      softmax.insert(softmax.end(), {max, 1.0f});
      for (int64_t i = 0; i < c.L; ++i)
        logits.push_back(i % 29 == 3 ? -INFINITY : max + std::log(1e-2f * unit(random) + 1e-9f));
      // The first outputs are bf16 values, so that a value can be equal.
      for (int64_t k = 0; k < d; ++k) {
        const float x = c.mean + normal(random);
        o.push_back(row % c.W < 2 ? to_float(to_bf16(x)) : x);
      }
    }
    for (int64_t i = 0; i < c.L * Hkv * d; ++i) v.push_back(to_float(to_bf16(c.mean + normal(random))));
    for (int64_t i = 5; i < c.L && c.mean == 0.0f; i += 17) {
      const int64_t h = i % Hq, w = i % c.W, g = c.heads.kv_of(h), step = i / 17 % 8;
      const float away = step == 7 ? 0.0f : std::ldexp(1.0f, static_cast<int>(step) - 6);
      for (int64_t k = 0; k < d; ++k)
        v[(i * Hkv + g) * d + k] = to_float(to_bf16(o[(h * c.W + w) * d + k] + away * normal(random)));
      for (int64_t row = 0; row < c.W && i / 17 % 16 < 8; ++row) logits[(h * c.W + row) * c.L + i] = -INFINITY;
      logits[(h * c.W + w) * c.L + i] = softmax[(h * c.W + w) * 2] + std::log(0.9f);
    }
    for (int64_t i = 0; i < Hq * d * d; ++i)
      r.push_back(i % d < i / d % d ? 0.0f : normal(random) * std::pow(0.97f, static_cast<float>(i / d % d)));
  }

  // Scores of the positions [begin, L), [Hq_lc, L - begin], by kernel `which` (nullptr: the CPU).
  std::vector<float> scores(Context& ctx, int64_t begin, const gpu::BeforeKernel* which) const {
    const int64_t Hq = c.heads.Hq_lc(), row = c.heads.Hkv_lc() * c.heads.d, count = c.L - begin;
    LocalShard shard;
    shard.L = shard.L_lc = count;
    shard.W = c.W;
    shard.stride = (count + 31) / 32 * 32 + 32;
    std::vector<float> rows(static_cast<size_t>(Hq * c.W * shard.stride), -INFINITY);
    for (int64_t i = 0; i < Hq * c.W; ++i) std::copy_n(&logits[i * c.L + begin], count, &rows[i * shard.stride]);
    const Tensor l_dev = upload(ctx, rows, {Hq * c.W, shard.stride}), m_dev = upload(ctx, softmax, {Hq * c.W, 2});
    const Tensor o_dev = upload(ctx, o, {Hq * c.W, c.heads.d}), r_dev = upload(ctx, r, {Hq, c.heads.d, c.heads.d});
    const Tensor v_dev = upload(ctx, {v.begin() + begin * row, v.end()}, {count, row}, DType::bf16);
    Tensor s = output(ctx, {Hq, shard.stride});
    if (which == nullptr)
      reconstruction_before(ctx, c.heads, shard, l_dev.data<float>(), m_dev.data<float>(), o_dev.data<float>(),
                            MatrixView(v_dev), r_dev.data<float>(), c.options, s.data<float>());
    else
      gpu::reconstruction_before(ctx, c.heads, shard, l_dev.data<float>(), m_dev.data<float>(), o_dev.data<float>(),
                                 MatrixView(v_dev), r_dev.data<float>(), c.options, s.data<float>(), *which);
    const std::vector<float> all = ctx.to_host<float>(s);
    std::vector<float> result;
    for (int64_t h = 0; h < Hq; ++h)
      result.insert(result.end(), &all[h * shard.stride], &all[h * shard.stride] + count);
    return result;
  }
};

class BeforeGpu : public testing::GpuTest {
 protected:
  void compare(const BeforeCase& c, uint32_t seed);
  void same_where_moved(const BeforeInput& in, const std::vector<float>& got, const gpu::BeforeKernel& kernel);

  Context cpu{Context::Options{Device::cpu}};
  double largest = 0.0;
};

void BeforeGpu::same_where_moved(const BeforeInput& in, const std::vector<float>& got,
                                 const gpu::BeforeKernel& kernel) {
  for (int64_t begin : {0, 1, 8, 37, 64, 77}) {
    if (begin >= in.c.L) break;
    std::vector<float> part;
    for (int64_t h = 0; h < in.c.heads.Hq_lc(); ++h)
      part.insert(part.end(), &got[h * in.c.L + begin], &got[h * in.c.L] + in.c.L);
    const std::vector<float> moved = in.scores(*gpu, begin, &kernel);
    ASSERT_EQ(moved.size(), part.size());
    EXPECT_EQ(0, std::memcmp(moved.data(), part.data(), sizeof(float) * part.size()))
        << "other bits from position " << begin << " on";
  }
}

void BeforeGpu::compare(const BeforeCase& c, uint32_t seed) {
  using gpu::BeforeKernel;
  const BeforeInput in(c, seed);
  const std::vector<float> want = in.scores(cpu, 0, nullptr);
  const std::pair<const char*, BeforeKernel> kernels[] = {
      {"plain", BeforeKernel::plain}, {"warpgroups", BeforeKernel::warpgroups}, {"fastest", BeforeKernel::fastest}};
  for (const auto& [name, kernel] : kernels) {
    if (kernel == BeforeKernel::warpgroups && !gpu::has_warpgroups()) continue;
    SCOPED_TRACE(name);
    const std::vector<float> got = in.scores(*gpu, 0, &kernel);
    ASSERT_EQ(got.size(), want.size());
    double worst = 0.0;
    size_t at = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      if (got[i] == want[i]) continue;
      const double error = std::abs(static_cast<double>(got[i]) - want[i]) / std::abs(static_cast<double>(want[i]));
      if (!(error <= worst)) worst = error, at = i;
    }
    largest = std::max(largest, worst);
    // Each by itself.
    EXPECT_LE(worst, kScoresBf16) << "head " << at / c.L << ", position " << at % c.L << ": " << got[at] << ", not "
                                  << want[at];
    same_where_moved(in, got, kernel);
  }
}

TEST_F(BeforeGpu, KernelsAgreeWithTheCpu) {
  const BeforeOptions normalized{RowReduction::ema, 0.3, true}, mean{RowReduction::mean}, sum{RowReduction::sum};
  const BeforeCase cases[] = {
      {1000, 32, {8, 2, 128, {{0, 8}, {0, 2}}}},
      {131, 32, {3, 1, 128, {{0, 3}, {0, 1}}}, 0.0f, normalized},
      {450, 32, {8, 2, 128, {{3, 6}, {0, 2}}}},                // parts of two groups
      {777, 33, {16, 2, 128, {{0, 16}, {0, 2}}}, 0.0f, mean},  // two lists of heads, two products for the window
      {901, 7, {7, 1, 64, {{0, 7}, {0, 1}}}, 0.0f, sum},
      {64, 1, {32, 1, 64, {{0, 32}, {0, 1}}}},
      {1, 32, {8, 2, 64, {{0, 8}, {0, 2}}}},
      {700, 32, {4, 2, 256, {{0, 4}, {0, 2}}}},
      {333, 40, {5, 1, 256, {{0, 5}, {0, 1}}}, 0.0f, normalized},
      {2049, 100, {4, 4, 128, {{0, 4}, {0, 4}}}},
      {600, 32, {4, 1, 128, {{0, 4}, {0, 1}}}, 2.0f},
      {600, 32, {4, 1, 128, {{0, 4}, {0, 1}}}, 30.0f},  // most positions are computed again
      {5003, 32, {12, 3, 128, {{0, 12}, {0, 3}}}},
  };
  uint32_t seed = 400;
  for (const BeforeCase& c : cases) {
    SCOPED_TRACE(fmt::format("L {} W {} Hq_lc {} Hkv_lc {} d {} mean {}", c.L, c.W, c.heads.Hq_lc(), c.heads.Hkv_lc(),
                             c.heads.d, c.mean));
    compare(c, seed++);
  }
  printf("largest error of a score, relative to itself: %.2e\n", largest);
}

// Kernels that cannot run say so, and windows that are too long for products take the plain one.
TEST_F(BeforeGpu, LongWindows) {
  const BeforeInput in({40, 600, {2, 1, 128, {{0, 2}, {0, 1}}}}, 430);
  const gpu::BeforeKernel plain = gpu::BeforeKernel::plain, fastest = gpu::BeforeKernel::fastest,
                          warpgroups = gpu::BeforeKernel::warpgroups;
  EXPECT_EQ(in.scores(*gpu, 0, &plain), in.scores(*gpu, 0, &fastest));
  EXPECT_THROW(in.scores(*gpu, 0, &warpgroups), Error);
}

}  // namespace
}  // namespace restkv::testing
