// The kernels of ReST-KV's mode `before` on a GPU, by name, against the CPU: values close to outputs of the window and
// equal to them, values with a large mean, windows of any length, positions moved. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "dist/base/error.h"
#include "dist/comm/communicator.h"
#include "kvcache/scores/reconstruction_kernels.h"
#include "kvcache/select/radix_select.h"
#include "kvcache/statistics/window_output.h"
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
    if (kernel == BeforeKernel::warpgroups && !gpu::has_warpgroup_norms()) continue;
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

enum class Logits { spread, clustered, equal };

// The outputs' pass over the logits lists what the selection's own would, and the outputs stay what they are.
TEST_F(BeforeGpu, OutputsListCandidates) {
  struct Case {
    int64_t L, W, d, k;
    Logits logits;
  };
  const Case cases[] = {{20000, 32, 128, 992, Logits::spread},     {40003, 7, 64, 1024, Logits::spread},
                        {9001, 40, 256, 1, Logits::spread},        {40003, 32, 128, 500, Logits::clustered},
                        {20000, 20, 128, 1000, Logits::clustered}, {33000, 9, 128, 700, Logits::equal}};
  auto self = make_self_communicator("self");
  const HeadRange part{{3, 9}, {0, 3}};  // of 12 and 3: parts of two groups beside a whole one
  std::mt19937 random(500);
  std::normal_distribution<float> normal;
  for (const Case& c : cases) {
    SCOPED_TRACE(fmt::format("L {} W {} d {} k {}", c.L, c.W, c.d, c.k));
    const HeadLayout heads{12, 3, c.d, part};
    const MatrixView view(gpu->empty(DType::bf16, {1, 3 * c.d}));
    if (!window_outputs_can_list(*gpu, heads, view)) GTEST_SKIP() << "no products of warpgroups here";
    const SequencePartition partition(c.L, 1);
    const LocalShard shard = make_local_shard(partition, 0, c.W);
    const int64_t rows = heads.Hq_lc() * c.W;
    std::vector<float> logits(static_cast<size_t>(rows * shard.stride), -INFINITY), softmax, v;
    for (int64_t row = 0; row < rows; ++row) {
      softmax.insert(softmax.end(), {4.0f, 1e-3f});
      for (int64_t i = 0; i < c.L; ++i) {
        const float high = c.logits == Logits::clustered && i / 900 == row % 7 ? 3.0f : 0.0f;
        logits[row * shard.stride + i] = c.logits == Logits::equal && i % 50 != 0 ? 1.0f : normal(random) + high;
      }
    }
    for (int64_t i = 0; i < c.L * 3 * c.d; ++i) v.push_back(normal(random));
    const Tensor l = upload(*gpu, logits, {rows, shard.stride}), m = upload(*gpu, softmax, {rows, 2});
    const Tensor values = upload(*gpu, v, {c.L, 3 * c.d}, DType::bf16);
    Tensor alone = output(*gpu, {partition.blocks(), rows * c.d}),
           with = output(*gpu, {partition.blocks(), rows * c.d});
    Tensor sums = gpu->empty(DType::i64, {rows}), sums_beside = gpu->empty(DType::i64, {rows});
    const SelectRows input{l.data<float>(), rows, shard.stride, &shard.all, c.L, 0};
    int calls = 0, listed = 0;
    const auto run = [&](const CandidateLists* lists) {
      ++calls, listed += lists != nullptr;
      window_output_partials(*gpu, heads, shard, l.data<float>(), m.data<float>(), MatrixView(values),
                             with.data<float>(), lists);
    };
    const SelectResult beside = select_top_beside(*gpu, *self, input, c.k, sums_beside.data<int64_t>(), run);
    const SelectResult want = select_top(*gpu, *self, input, c.k, sums.data<int64_t>());
    window_output_partials(*gpu, heads, shard, l.data<float>(), m.data<float>(), MatrixView(values),
                           alone.data<float>());
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(listed, 1);
    EXPECT_EQ(gpu->to_host<int64_t>(sums_beside), gpu->to_host<int64_t>(sums));
    EXPECT_EQ(gpu->to_host<uint32_t>(beside.cuts), gpu->to_host<uint32_t>(want.cuts));
    EXPECT_EQ(gpu->to_host<float>(with), gpu->to_host<float>(alone)) << "outputs differ where candidates are listed";
  }
}

}  // namespace
}  // namespace restkv::testing
