// The top-k of several GPU ranks, as threads on one GPU, against one CPU rank, bit for bit. Skips when there is no GPU.
#include <fmt/format.h>

#include <algorithm>

#include "dist/base/error.h"
#include "kvcache/select/group_select.h"
#include "tests/dist/loopback_communicator.h"
#include "tests/gpu_test.h"
#include "tests/kvcache/select_rows.h"

namespace restkv::testing {
namespace {

struct Expected {
  std::vector<uint32_t> cuts;
  std::vector<int32_t> tied;
  std::vector<int64_t> sums;
};

class SelectGroupGpu : public testing::GpuTest {
 protected:
  void compare(const std::vector<Row>& rows, const std::vector<int64_t>& counts, const std::vector<int>& group_sizes,
               int64_t block_size);
};

Expected on_one_cpu(const std::vector<Row>& rows, int64_t k) {
  Context cpu(Context::Options{Device::cpu, 2});
  auto self = make_self_communicator();
  const int64_t count = static_cast<int64_t>(rows.size()), n = static_cast<int64_t>(rows[0].size());
  std::vector<float> values;
  for (const Row& row : rows) values.insert(values.end(), row.begin(), row.end());
  const std::vector<Segment> all = {{0, 0, n}};
  Expected expected;
  expected.sums.resize(rows.size());
  const SelectResult top =
      select_top(cpu, *self, SelectRows{values.data(), count, n, &all, n}, k, expected.sums.data());
  expected.cuts = cpu.to_host<uint32_t>(top.cuts);
  expected.tied = cpu.to_host<int32_t>(top.tied);
  return expected;
}

void expect_group(LoopbackRank& rank, const std::vector<Row>& rows, int64_t k, int64_t block_size,
                  const Expected& expected) {
  const int64_t count = static_cast<int64_t>(rows.size()), n = static_cast<int64_t>(rows[0].size());
  const int me = rank.world->rank(), ranks = rank.world->size();
  const SequencePartition partition(n, ranks, block_size);
  const int64_t mine = partition.local_size(me), stride = mine + 3;
  std::vector<Segment> segments;
  int64_t local = 0, most = 0;
  for (Range chunk : partition.chunks_of(me)) {
    if (!chunk.empty()) segments.push_back({local, chunk.begin, chunk.size()});
    local += chunk.size();
  }
  for (int r = 0; r < ranks; ++r) most = std::max(most, partition.local_size(r));
  std::vector<float> values(static_cast<size_t>(count * stride), kInf);  // outside the runs: tempting
  for (int64_t row = 0; row < count; ++row)
    for (const Segment& s : segments)
      std::copy_n(rows[static_cast<size_t>(row)].begin() + s.global, s.count, values.begin() + row * stride + s.local);
  Tensor there = rank.ctx.to_device(values.data(), DType::f32, {count, stride});
  const SelectRows input{there.data<float>(), count, stride, &segments, n, most};
  const std::string name = fmt::format("{} values, k {}, rank {} of {}", n, k, me, ranks);

  const int64_t sent = rank.world->stats().bytes_sent;
  Tensor sums = rank.ctx.zeros(DType::i64, {count});
  GroupSelect begun = begin_group_select(rank.ctx, *rank.world, input, k, /*beside=*/k % 2 == 0);
  // Work that the exchange must not disturb, nor be disturbed by.
  Tensor scratch = rank.ctx.zeros(DType::u8, {1 << 20});
  const SelectResult top = finish_group_select(rank.ctx, *rank.world, std::move(begun), sums.data<int64_t>());
  EXPECT_EQ(rank.ctx.to_host<uint32_t>(top.cuts), expected.cuts) << name;
  EXPECT_EQ(rank.ctx.to_host<int32_t>(top.tied), expected.tied) << name;
  EXPECT_EQ(rank.ctx.to_host<int64_t>(sums), expected.sums) << name;
  EXPECT_EQ(rank.world->stats().bytes_sent - sent, (ranks - 1) * count * group_list_length(k, most) * 8) << name;

  // select_top() gives each rank the sums of its own positions.
  const SelectResult again = select_top(rank.ctx, *rank.world, input, k, sums.data<int64_t>());
  rank.world->all_reduce(sums.raw(), count, DType::i64, ReduceOp::sum);
  EXPECT_EQ(rank.ctx.to_host<uint32_t>(again.cuts), expected.cuts) << name;
  EXPECT_EQ(rank.ctx.to_host<int64_t>(sums), expected.sums) << name;
}

void SelectGroupGpu::compare(const std::vector<Row>& rows, const std::vector<int64_t>& counts,
                             const std::vector<int>& group_sizes, int64_t block_size) {
  std::vector<Expected> expected;
  for (int64_t k : counts) expected.push_back(on_one_cpu(rows, k));
  for (int ranks : group_sizes)
    run_loopback(ranks, Device::gpu, [&](LoopbackRank& rank) {
      for (size_t i = 0; i < counts.size(); ++i) expect_group(rank, rows, counts[i], block_size, expected[i]);
    });
}

TEST_F(SelectGroupGpu, AdversarialRows) {
  for (int64_t n : {1, 31, 257, 2500, 9001, 20011, 70000}) {
    std::vector<int64_t> counts = {0, 1, n / 100, n / 10, n / 2, n - 1, n};
    for (int64_t k : {992, 2048, 2049})
      if (k < n) counts.push_back(k);
    compare(adversarial_rows(n), counts, {1, 2, 3, 4}, 32);
  }
}

// All that is large on one rank, or spread evenly; NaN; the same values everywhere.
TEST_F(SelectGroupGpu, ClusteredRows) {
  const int64_t n = 60000;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const std::vector<Row> rows = {
      make_row(n, [&](int64_t i) { return normal(random) + (i >= n - 3000 ? 20.0f : 0.0f); }),
      make_row(n, [&](int64_t i) { return normal(random) + (i < 1500 ? 20.0f : 0.0f); }),
      make_row(n, [&](int64_t i) { return i % 3 == 0 ? std::numeric_limits<float>::quiet_NaN() : normal(random); }),
      make_row(n, [&](int64_t i) { return i >= n - 500 ? std::numeric_limits<float>::quiet_NaN() : -kInf; }),
      make_row(n, [&](int64_t i) { return i < n / 2 ? 1.0f : 0.0f; }),
      make_row(n, [&](int64_t i) { return i >= n / 2 ? 1.0f : 0.0f; }),
      make_row(n, [&](int64_t i) { return static_cast<float>(i / 1000 % 7); }),
      make_row(n, [&](int64_t i) { return std::round(2 * normal(random)) + (i / 10000 == 2 ? 1.0f : 0.0f); }),
  };
  compare(rows, {1, 500, 992, 1500, 2999, 3000, 8191, n / 2, n / 2 + 1, n - 500}, {2, 3, 4}, 128);
}

// More rows than are gathered at once.
TEST_F(SelectGroupGpu, ListsInSeveralRuns) {
  const int64_t n = int64_t{1} << 21, k = n - 5;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const Row base = make_row(n, [&](int64_t i) { return i % 5 == 0 ? 0.25f : normal(random); });
  std::vector<Row> rows;
  for (int64_t row = 0; row < 17; ++row) {
    rows.push_back(base);
    std::rotate(rows.back().begin(), rows.back().begin() + row * 100003, rows.back().end());
  }
  ASSERT_GT(17 * n * 8, kGatheredListBytes);
  compare(rows, {k, n / 2}, {4}, 1024);
}

}  // namespace
}  // namespace restkv::testing
