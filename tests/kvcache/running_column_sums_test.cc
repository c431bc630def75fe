// Column sums from queries that come in runs, against those of all queries at once, on either device.
#include "kvcache/statistics/running_column_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "dist/base/mix.h"
#include "tests/gpu_test.h"

namespace restkv {
namespace {

Tensor random_matrix(Context& ctx, DType dtype, int64_t rows, int64_t cols, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(rows * cols));
  std::vector<bf16> rounded(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(mix64(seed + i) % 4001) / 1000.0f - 2.0f;
    rounded[i] = to_bf16(values[i]);
  }
  const void* data = dtype == DType::f32 ? static_cast<const void*>(values.data()) : rounded.data();
  return ctx.to_device(data, dtype, {rows, cols});
}

/// Of a rank's two chunks in runs of at most `run` rows, in another order than they come.
void expect_runs_add_up(Context& ctx, DType dtype, int64_t L, int64_t d, int ranks, int64_t run) {
  const HeadLayout heads{4, 2, d, split_heads(4, 2, 1, 0)};
  const SequencePartition partition(L, ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    const LocalShard shard = make_local_shard(partition, rank, 0);
    const Tensor q = random_matrix(ctx, dtype, shard.L_lc, 4 * d, 1), k = random_matrix(ctx, dtype, L, 2 * d, 2);
    // Some rows without weights.
    std::vector<float> lse(static_cast<size_t>(4 * shard.L_lc), 7.5f);
    for (size_t i = 0; i < lse.size(); i += 37) lse[i] = -std::numeric_limits<float>::infinity();
    const Tensor device_lse = ctx.to_device(lse.data(), DType::f32, {4, shard.L_lc});
    const Tensor want = ctx.empty(DType::i64, {4, L}), got = ctx.zeros(DType::i64, {4, L});
    column_sums(ctx, heads, shard, {MatrixView(q), MatrixView(k), device_lse.data<float>()}, want.data<int64_t>());
    std::vector<Segment> runs;
    for (const Segment& s : shard.all)
      for (int64_t at = 0; at < s.count; at += run)
        runs.push_back({s.local + at, s.global + at, std::min(run, s.count - at)});
    std::reverse(runs.begin(), runs.end());
    for (const Segment& s : runs) {
      std::vector<float> dense;
      for (int64_t h = 0; h < 4; ++h)
        dense.insert(dense.end(), lse.begin() + h * shard.L_lc + s.local,
                     lse.begin() + h * shard.L_lc + s.local + s.count);
      const Tensor own = ctx.to_device(dense.data(), DType::f32, {4, s.count});
      add_column_sums(ctx, heads, {0, s.global, s.count},
                      {MatrixView(q).block(s.local, s.count, 0, 4 * d), MatrixView(k), own.data<float>()},
                      got.data<int64_t>());
    }
    const auto a = ctx.to_host<int64_t>(got), b = ctx.to_host<int64_t>(want);
    EXPECT_GT(*std::max_element(b.begin(), b.end()), 0);
    EXPECT_EQ(a, b) << "L " << L << ", d " << d << ", rank " << rank << " of " << ranks << ", runs of " << run;
  }
}

TEST(RunningColumnSums, AddUpOnTheCpu) {
  Context ctx({Device::cpu, 1});
  for (int ranks : {1, 3})
    for (int64_t run : {64, 128, 384}) expect_runs_add_up(ctx, DType::f32, 700, 24, ranks, run);
}

TEST(RunningColumnSums, RefuseRunsBetweenTiles) {
  Context ctx({Device::cpu, 1});
  const HeadLayout heads{2, 2, 16, split_heads(2, 2, 1, 0)};
  const Tensor q = ctx.zeros(DType::f32, {64, 32}), k = ctx.zeros(DType::f32, {128, 32}),
               lse = ctx.zeros(DType::f32, {2, 64}), sums = ctx.zeros(DType::i64, {2, 128});
  const PromptQueries queries{MatrixView(q), MatrixView(k), lse.data<float>()};
  EXPECT_NO_THROW(add_column_sums(ctx, heads, {0, 64, 64}, queries, sums.data<int64_t>()));
  EXPECT_THROW(add_column_sums(ctx, heads, {0, 32, 64}, queries, sums.data<int64_t>()), RuntimeFailure);
  EXPECT_THROW(add_column_sums(ctx, heads, {0, 128, 64}, queries, sums.data<int64_t>()), RuntimeFailure);
}

class RunningColumnSumsGpu : public testing::GpuTest {};

TEST_F(RunningColumnSumsGpu, AddUp) {
  for (int ranks : {1, 3})
    for (int64_t d : {64, 128, 256, 80})  // 80: without tensor cores
      for (int64_t run : {128, 384, 4096}) expect_runs_add_up(*gpu, DType::bf16, 3001, d, ranks, run);
  expect_runs_add_up(*gpu, DType::f32, 700, 24, 2, 128);
}

}  // namespace
}  // namespace restkv
