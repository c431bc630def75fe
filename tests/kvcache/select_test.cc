// The exact distributed top-k against a sort, on adversarial values.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "dist/base/error.h"
#include "kvcache/select/radix_select.h"
#include "tests/kvcache/select_rows.h"
#include "tests/mpi_world.h"

namespace restkv::testing {
namespace {

// Index lists on the host without their tails of `tail` rows from `first` on, which are checked here.
std::vector<std::vector<int32_t>> lists(Context& ctx, const TopRows& top, int64_t tail, int64_t first) {
  const std::vector<int32_t> rows = ctx.to_host<int32_t>(top.rows), counts = ctx.to_host<int32_t>(top.counts);
  std::vector<std::vector<int32_t>> result;
  for (size_t row = 0; row < counts.size(); ++row) {
    const auto from = rows.begin() + static_cast<int64_t>(row) * top.rows.size(1);
    result.emplace_back(from, from + counts[row]);
    for (int64_t i = tail - 1; i >= 0; --i) {
      EXPECT_EQ(result.back().back(), first + i);
      result.back().pop_back();
    }
  }
  return result;
}

// This rank's share of the rows, and its selection compared with the sort.
void check(Communicator& group, int64_t n, int64_t block, const std::vector<Row>& rows, const std::vector<int64_t>& k) {
  Context ctx({Device::cpu, 1});
  SequencePartition partition(n, group.size(), block);
  const int64_t local = partition.local_size(group.rank()), stride = local + 5;
  std::vector<float> values(rows.size() * static_cast<size_t>(stride), kInf);
  for (size_t row = 0; row < rows.size(); ++row)
    for (int64_t i = 0; i < local; ++i)
      values[row * static_cast<size_t>(stride) + static_cast<size_t>(i)] =
          rows[row][static_cast<size_t>(partition.global_position(group.rank(), i))];
  std::vector<Segment> segments;
  int64_t at = 0;
  for (Range chunk : partition.chunks_of(group.rank()))
    if (!chunk.empty()) segments.push_back({at, chunk.begin, chunk.size()}), at += chunk.size();
  SelectRows input{values.data(), static_cast<int64_t>(rows.size()), stride, &segments, n};
  SelectResult top = select_top(ctx, group, input, k);
  std::vector<int64_t> sums(rows.size());
  top_set_sums(ctx, input, top.cut(), sums.data());
  group.all_reduce(std::span<int64_t>(sums));
  const auto ours = lists(ctx, top_set_rows(ctx, input, top.cut(), {local, local + 2}, local + 2), 2, local);
  int64_t tied = 0;
  for (size_t row = 0; row < rows.size(); ++row) {
    const auto expected = sorted_top(rows[row], k[row]);
    std::vector<int64_t> mine, positions;
    for (int64_t p : expected)
      if (partition.owner(p) == group.rank()) mine.push_back(p);
    for (int32_t i : ours[row]) positions.push_back(partition.global_position(group.rank(), i));
    EXPECT_EQ(positions, mine) << "row " << row << " of " << n << ", k " << k[row];
    EXPECT_EQ(sums[row], std::accumulate(expected.begin(), expected.end(), int64_t{0})) << "row " << row;
    float cut = k[row] > 0 ? kInf : 0.0f;
    for (int64_t p : expected) cut = std::min(cut, rows[row][static_cast<size_t>(p)]);
    const auto equal = std::count(rows[row].begin(), rows[row].end(), cut);
    int64_t taken = 0;
    for (int64_t p : expected) taken += rows[row][static_cast<size_t>(p)] == cut;
    tied += k[row] > 0 && taken < equal;
  }
  EXPECT_EQ(top.tied_rows(ctx), tied);
}

TEST(Select, AgreesWithASort) {
  for (auto [sequence, tensor] : all_layouts()) {
    if (tensor != 1) continue;
    ProcessGrid grid = make_grid(sequence, 1);
    for (int64_t n : {1, 2, 31, 257, 2500})
      for (double part : {0.0, 0.1, 0.5, 0.999, 1.0}) {
        auto rows = adversarial_rows(n);
        std::vector<int64_t> k;
        for (size_t row = 0; row < rows.size(); ++row)
          k.push_back(std::clamp<int64_t>(
              static_cast<int64_t>(part * static_cast<double>(n)) + static_cast<int64_t>(row % 2), 0, n));
        check(grid.sequence(), n, 32, rows, k);
      }
  }
}

// Positions beyond 2^11 and 2^12 need two digits of the position.
TEST(Select, ResolvesTiesAmongManyPositions) {
  ProcessGrid grid = make_grid(mpi_runtime().size(), 1);
  const int64_t n = 70000;
  Row flat = make_row(n, [](int64_t) { return 1.0f; });
  Row late = make_row(n, [](int64_t i) { return i >= 4500 ? 1.0f : -1.0f; });
  check(grid.sequence(), n, 1024, {flat, late, flat}, {2048, 60000, 2049});
}

TEST(Select, NanComesLast) {
  Context ctx({Device::cpu, 1});
  auto self = make_self_communicator();
  std::vector<float> values = {std::nanf(""), -kInf, -std::nanf(""), 1.0f};
  std::vector<Segment> segments = {{0, 0, 4}};
  SelectRows input{values.data(), 1, 4, &segments, 4};
  SelectResult top = select_top(ctx, *self, input, {3});
  EXPECT_EQ(lists(ctx, top_set_rows(ctx, input, top.cut(), {}, 3), 0, 0)[0], (std::vector<int32_t>{0, 1, 3}));
  EXPECT_THROW(top_set_rows(ctx, input, top.cut(), {}, 2), RuntimeFailure);
}

TEST(Select, KeysFollowTheOrderOfFloats) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const Row ascending = {-kInf, -3e38f, -1.0f, -tiny, 0.0f, tiny, 1.0f, 3e38f, kInf};
  for (size_t i = 0; i + 1 < ascending.size(); ++i) EXPECT_LT(order_key(ascending[i]), order_key(ascending[i + 1]));
  EXPECT_EQ(order_key(-0.0f), order_key(0.0f));
  EXPECT_LT(order_key(std::nanf("")), order_key(-kInf));
}

}  // namespace
}  // namespace restkv::testing
