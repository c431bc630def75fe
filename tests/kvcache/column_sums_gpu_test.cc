// The kernels of the column sums against sums in double precision, and the promise that every layout gives the same
// bits. Skips when there is no GPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "dist/base/error.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/statistics/column_sums_kernels.h"
#include "tests/gpu_test.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

using gpu::ColumnKernel;

// Queries and keys of a prompt; what the attention leaves of them is computed here.
struct Prompt {
  HeadLayout heads;
  int64_t L;
  std::vector<bf16> q, k;      // [L, Hq_lc * d], [L, Hkv_lc * d]
  std::vector<float> lse;      // [Hq_lc, L]
  std::vector<double> wanted;  // [Hq_lc, L]

  Prompt(const HeadLayout& layout, int64_t length, uint32_t seed, float spread) : heads(layout), L(length) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < L * heads.Hq_lc() * heads.d; ++i) q.push_back(to_bf16(spread * normal(random)));
    for (int64_t i = 0; i < L * heads.Hkv_lc() * heads.d; ++i) k.push_back(to_bf16(normal(random)));
    attend();
  }

  void attend() {
    const int64_t d = heads.d, q_width = heads.Hq_lc() * d, k_width = heads.Hkv_lc() * d;
    std::vector<float> qf, kf;
    for (bf16 x : q) qf.push_back(to_float(x));
    for (bf16 x : k) kf.push_back(to_float(x));
    wanted.assign(static_cast<size_t>(heads.Hq_lc() * L), 0.0);
    std::vector<double> row(static_cast<size_t>(L));
    for (int64_t h = 0; h < heads.Hq_lc(); ++h) {
      const int64_t g = (heads.local.q.begin + h) / heads.group() - heads.local.kv.begin;
      for (int64_t w = 0; w < L; ++w) {
        double max = -INFINITY, sum = 0.0;
        for (int64_t i = 0; i <= w; ++i) {
          double dot = 0.0;
          for (int64_t j = 0; j < d; ++j)
            dot += static_cast<double>(qf[w * q_width + h * d + j]) * static_cast<double>(kf[i * k_width + g * d + j]);
          row[i] = dot / std::sqrt(static_cast<double>(d));
          max = std::max(max, row[i]);
        }
        for (int64_t i = 0; i <= w; ++i) sum += std::exp(row[i] - max);
        // Every 50th row has no weights.
        const bool dead = w % 50 == 49;
        lse.push_back(dead ? -INFINITY : static_cast<float>(max + std::log(sum)));
        for (int64_t i = 0; i <= w && !dead; ++i)
          wanted[h * L + i] += std::exp(row[i] - static_cast<double>(lse.back()));
      }
    }
  }
};

class ColumnSumsGpu : public testing::GpuTest {
 protected:
  // The part of one rank's queries, [Hq_lc, L].
  std::vector<int64_t> part(const Prompt& prompt, const SequencePartition& partition, int rank, ColumnKernel kernel) {
    const LocalShard shard = make_local_shard(partition, rank, 0);
    const int64_t q_width = prompt.heads.Hq_lc() * prompt.heads.d, k_width = prompt.heads.Hkv_lc() * prompt.heads.d;
    // Rows further apart than wide, as slices of a wider matrix are; what lies between is NaN.
    const int64_t q_ld = q_width + 8, k_ld = k_width + 16;
    std::vector<bf16> q(static_cast<size_t>(shard.L_lc * q_ld + 8), to_bf16(NAN));
    std::vector<bf16> k(static_cast<size_t>(prompt.L * k_ld + 8), to_bf16(NAN));
    std::vector<float> lse(static_cast<size_t>(prompt.heads.Hq_lc() * shard.L_lc + 1));
    for (const Segment& s : shard.all)
      for (int64_t i = 0; i < s.count; ++i) {
        std::copy_n(prompt.q.begin() + (s.global + i) * q_width, q_width, q.begin() + (s.local + i) * q_ld);
        for (int64_t h = 0; h < prompt.heads.Hq_lc(); ++h)
          lse[h * shard.L_lc + s.local + i] = prompt.lse[h * prompt.L + s.global + i];
      }
    for (int64_t i = 0; i < prompt.L; ++i) std::copy_n(prompt.k.begin() + i * k_width, k_width, k.begin() + i * k_ld);
    Tensor q_there = gpu->to_device(q.data(), DType::bf16, {static_cast<int64_t>(q.size())});
    Tensor k_there = gpu->to_device(k.data(), DType::bf16, {static_cast<int64_t>(k.size())});
    Tensor lse_there = gpu->to_device(lse.data(), DType::f32, {static_cast<int64_t>(lse.size())});
    const std::vector<int64_t> poison(static_cast<size_t>(prompt.heads.Hq_lc() * prompt.L), -1);
    Tensor sums = gpu->to_device(poison.data(), DType::i64, {prompt.heads.Hq_lc(), prompt.L});
    MatrixView q_view(q_there.reshape({1, q_there.numel()})), k_view(k_there.reshape({1, k_there.numel()}));
    q_view.rows = shard.L_lc, q_view.cols = q_width, q_view.ld = q_ld;
    k_view.rows = prompt.L, k_view.cols = k_width, k_view.ld = k_ld;
    gpu::column_sums(*gpu, prompt.heads, shard, {q_view, k_view, lse_there.data<float>()}, sums.data<int64_t>(),
                     kernel);
    return gpu->to_host<int64_t>(sums);
  }

  std::vector<int64_t> whole(const Prompt& prompt, int ranks, int64_t block, ColumnKernel kernel) {
    const SequencePartition partition(prompt.L, ranks, block);
    std::vector<int64_t> all(static_cast<size_t>(prompt.heads.Hq_lc() * prompt.L), 0);
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<int64_t> own = part(prompt, partition, rank, kernel);
      for (size_t i = 0; i < all.size(); ++i) all[i] += own[i];
    }
    return all;
  }

  void compare(const Prompt& prompt, const char* name, ColumnKernel kernel, int64_t block) {
    const std::vector<int64_t> got = whole(prompt, 1, block, kernel);
    double worst = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double value = std::ldexp(static_cast<double>(got[i]), -kColumnSumBits), want = prompt.wanted[i];
      // Every sum of 32 is rounded to a unit.
      const double allowed = kColumnSumsGpu * want + static_cast<double>(prompt.L) * 1e-12;
      worst = std::max(worst, std::fabs(value - want) / (want + 1e-30));
      ASSERT_LE(std::fabs(value - want), allowed)
          << name << ": head " << i / static_cast<size_t>(prompt.L) << ", key " << i % static_cast<size_t>(prompt.L)
          << " of " << prompt.L << " has " << value << ", not " << want;
    }
    printf("%s, L %ld, d %ld: largest relative error %.1e\n", name, static_cast<long>(prompt.L),
           static_cast<long>(prompt.heads.d), worst);
    EXPECT_EQ(whole(prompt, 1, block, kernel), got) << name << ": a second run";
    for (int ranks : {2, 3}) EXPECT_EQ(whole(prompt, ranks, block, kernel), got) << name << " on " << ranks << " ranks";
  }
};

const std::pair<const char*, ColumnKernel> kKernels[] = {
    {"warps", ColumnKernel::warps}, {"warpgroups", ColumnKernel::warpgroups}, {"fastest", ColumnKernel::fastest}};

bool runs(ColumnKernel kernel) {
  return kernel == ColumnKernel::warps || kernel == ColumnKernel::fastest || gpu::has_warpgroups();
}

TEST_F(ColumnSumsGpu, HopperHasWarpgroups) {
  if (gpu->gpu()->describe().find("NVIDIA H") == std::string::npos) GTEST_SKIP() << "not a Hopper device";
  EXPECT_TRUE(gpu::has_warpgroups()) << "the sm_90a code was not compiled or not chosen";
}

TEST_F(ColumnSumsGpu, EveryKernel) {
  struct Case {
    int64_t L, block;
    HeadLayout heads;
    float spread;
  };
  const Case cases[] = {
      {1, 32, {2, 1, 128, {{0, 2}, {0, 1}}}, 1.0f},    {33, 32, {4, 2, 64, {{0, 4}, {0, 2}}}, 1.0f},
      {256, 128, {2, 2, 128, {{0, 2}, {0, 2}}}, 3.0f}, {257, 32, {3, 1, 64, {{0, 3}, {0, 1}}}, 2.0f},
      {700, 96, {4, 1, 128, {{1, 4}, {0, 1}}}, 1.0f},  {1301, 64, {4, 2, 128, {{0, 4}, {0, 2}}}, 2.0f},
      {1600, 128, {2, 1, 64, {{0, 2}, {0, 1}}}, 6.0f}, {1000, 160, {2, 1, 128, {{0, 2}, {0, 1}}}, 0.1f},
  };
  uint32_t seed = 1;
  for (const Case& c : cases) {
    const Prompt prompt(c.heads, c.L, seed++, c.spread);
    SCOPED_TRACE(fmt::format("L {} block {} Hq_lc {} Hkv_lc {} d {}", c.L, c.block, c.heads.Hq_lc(), c.heads.Hkv_lc(),
                             c.heads.d));
    for (const auto& [name, kernel] : kKernels)
      if (runs(kernel)) compare(prompt, name, kernel, c.block);
    if (HasFatalFailure()) return;
  }
}

// A prompt so long that counts of 32 bits have to be emptied, with a key that takes nearly all weight of every row.
TEST_F(ColumnSumsGpu, OneKeyTakesAll) {
  for (int64_t d : {64, 128}) {
    const int64_t L = 50000;
    Prompt prompt({1, 1, d, {{0, 1}, {0, 1}}}, 1, 1, 1.0f);
    prompt.L = L;
    prompt.q.assign(static_cast<size_t>(L * d), to_bf16(0.0f));
    prompt.k = prompt.q;
    const float key = 160.0f;
    prompt.k[0] = to_bf16(key);
    for (int64_t i = 0; i < L; ++i) prompt.q[i * d] = to_bf16(i % 2 == 0 ? 1.0f : 0.5f);
    prompt.lse.clear();
    double first = 0.0, last = 0.0;
    for (int64_t i = 0; i < L; ++i) {
      const double x = (i % 2 == 0 ? 1.0 : 0.5) * key / std::sqrt(static_cast<double>(d));
      prompt.lse.push_back(static_cast<float>(x + std::log1p(static_cast<double>(i) * std::exp(-x))));
      first += std::exp(x - static_cast<double>(prompt.lse.back()));
      last = std::exp(-static_cast<double>(prompt.lse.back()));
    }
    for (const auto& [name, kernel] : kKernels) {
      if (!runs(kernel)) continue;
      const std::vector<int64_t> one = whole(prompt, 1, 1024, kernel);
      EXPECT_NEAR(std::ldexp(static_cast<double>(one[0]), -kColumnSumBits), first, first * kColumnSumsGpu) << name;
      EXPECT_NEAR(std::ldexp(static_cast<double>(one[L - 1]), -kColumnSumBits), last, last * kColumnSumsGpu + 1e-11)
          << name;
      EXPECT_EQ(whole(prompt, 4, 1024, kernel), one) << name << " on 4 ranks";
    }
  }
}

}  // namespace
}  // namespace restkv::testing
