// Kept rows on their way to the ranks that decode their heads: threads as ranks, on CPU memory and on one GPU.
#include "kvcache/reshard.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "dist/base/error.h"
#include "tests/dist/loopback_communicator.h"

namespace restkv::testing {
namespace {

struct Shape {
  int64_t L, block_size, B, kv_heads, d;
  std::vector<int64_t> source_head;
};

// A 32-bit pattern of its own for every element.
uint32_t element(int64_t position, int64_t column, int64_t j, bool value) {
  return static_cast<uint32_t>(
      mix64(static_cast<uint64_t>(((position * 64 + column) * 1024 + j) * 2 + (value ? 1 : 0))));
}

std::vector<uint8_t> bytes_of(uint32_t pattern, DType dtype) {
  const auto* from = reinterpret_cast<const uint8_t*>(&pattern);
  return {from, from + size_of(dtype)};
}

std::vector<uint8_t> row_of(int64_t position, int64_t column, int64_t d, bool value, DType dtype) {
  std::vector<uint8_t> row;
  for (int64_t j = 0; j < d; ++j)
    for (uint8_t byte : bytes_of(element(position, column, j, value), dtype)) row.push_back(byte);
  return row;
}

class Reshard : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::gpu && GpuRuntime::count() == 0) GTEST_SKIP() << "no GPU";
  }
};

// Cache head h keeps these positions, ascending; the same on every rank.
std::vector<std::vector<int64_t>> choose(const Shape& s, bool all, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<int64_t>> kept;
  for (size_t h = 0; h < s.source_head.size(); ++h) {
    std::vector<int64_t> positions(static_cast<size_t>(s.L));
    std::iota(positions.begin(), positions.end(), 0);
    if (!all) {
      // Some heads keep neighbours alone, which one rank may have.
      if (h % 3 != 2) std::shuffle(positions.begin(), positions.end(), random);
      positions.resize(static_cast<size_t>(s.B));
      std::sort(positions.begin(), positions.end());
    }
    kept.push_back(positions);
  }
  return kept;
}

// The rows of a head, as the device has them.
std::vector<uint8_t> rows_in_cache(Context& ctx, const KvCache& cache, int64_t head, bool value, int64_t row_bytes) {
  const int64_t count = cache.length(0, head);
  std::vector<uint8_t> rows(static_cast<size_t>(count * row_bytes));
  if (ctx.device() == Device::cpu) {
    const KvView view = cache.view(0);
    const char* from = static_cast<const char*>(value ? view.v : view.k) + view.head_offset[head] / view.d * row_bytes;
    std::copy_n(reinterpret_cast<const uint8_t*>(from), rows.size(), rows.begin());
    return rows;
  }
  const DeviceKvLayer layer = cache.device_layer(0);
  int64_t first = 0;
  int32_t length = 0;
  ctx.to_host(layer.first_row + head, &first, sizeof(first));
  ctx.to_host(layer.length + head, &length, sizeof(length));
  EXPECT_EQ(length, count);
  const char* from = static_cast<const char*>(value ? layer.v : layer.k) + first * row_bytes;
  ctx.to_host(from, rows.data(), static_cast<int64_t>(rows.size()));
  return rows;
}

enum class Counts { all, equal, ragged };

void check(LoopbackRank& rank, const Shape& s, DType dtype, const std::vector<Range>& share, Counts counts, bool wide) {
  Context& ctx = rank.ctx;
  const bool all = counts == Counts::all;
  const int me = rank.world->rank(), ranks = rank.world->size();
  const SequencePartition partition(s.L, ranks, s.block_size);
  auto kept = choose(s, all, 5);
  if (counts == Counts::ragged)  // heads with few rows, and with none
    for (size_t h = 0; h < kept.size(); ++h) kept[h].resize(kept[h].size() * (h % 4) / 3);
  const int64_t L_lc = partition.local_size(me), row_bytes = s.d * size_of(dtype);
  std::vector<uint8_t> k, v;
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < L_lc; ++i) {
    positions.push_back(partition.global_position(me, i));
    for (int64_t column = 0; column < s.kv_heads; ++column)
      for (bool value : {false, true}) {
        const auto row = row_of(positions.back(), column, s.d, value, dtype);
        auto& to = value ? v : k;
        to.insert(to.end(), row.begin(), row.end());
      }
  }
  const std::vector<int32_t> narrow(positions.begin(), positions.end());
  Tensor k_there = ctx.to_device(k.data(), dtype, {L_lc, s.kv_heads * s.d});
  Tensor v_there = ctx.to_device(v.data(), dtype, {L_lc, s.kv_heads * s.d});
  Tensor where =
      wide ? ctx.to_device(positions.data(), DType::i64, {L_lc}) : ctx.to_device(narrow.data(), DType::i32, {L_lc});
  std::vector<std::vector<int32_t>> rows(kept.size());
  std::vector<int64_t> heads(kept.size());
  std::iota(heads.begin(), heads.end(), 0);
  for (size_t h = 0; h < kept.size(); ++h)
    for (int64_t p : kept[h])
      if (partition.owner(p) == me) rows[h].push_back(static_cast<int32_t>(partition.local_index(me, p)));
  KeptRows mine = all ? KeptRows::everything(L_lc, heads) : KeptRows::from_host(ctx, rows, heads);
  int64_t together = 0;
  for (const auto& head : kept) together += static_cast<int64_t>(head.size());
  if (counts == Counts::equal) mine.in_group = s.B;
  if (counts == Counts::ragged) mine.known = -1, mine.most_in_group = s.B, mine.together = together + 3;
  KvCache cache(ctx, 1, share[me].size(), s.d, dtype);
  const int64_t sent = rank.world->stats().bytes_sent;
  reshard_by_head(ctx, *rank.world,
                  {MatrixView(k_there), MatrixView(v_there), s.kv_heads, s.d, s.source_head, where, &mine, &partition},
                  share, cache, 0, 7);
  if (ctx.device() == Device::gpu) {
    int64_t want = counts == Counts::ragged ? (ranks - 1) * mine.heads() * int64_t{sizeof(int32_t)} : 0;
    for (int r = 0; r < ranks; ++r)
      if (r != me) want += reshard_message_bytes(share[r].size(), std::min(all ? s.L : s.B, L_lc), row_bytes);
    EXPECT_EQ(rank.world->stats().bytes_sent - sent, want);
  }
  cache.refresh_lengths();
  int64_t held = 0;
  for (int64_t h = 0; h < share[me].size(); ++h) {
    held += static_cast<int64_t>(kept[static_cast<size_t>(share[me].begin + h)].size()) + 7;
    const int64_t head = share[me].begin + h, column = s.source_head[static_cast<size_t>(head)];
    const auto& expected = kept[static_cast<size_t>(head)];
    ASSERT_EQ(cache.positions(0, h), expected) << "rank " << me << ", head " << head;
    for (bool value : {false, true}) {
      std::vector<uint8_t> want;
      for (int64_t p : expected) {
        const auto row = row_of(p, column, s.d, value, dtype);
        want.insert(want.end(), row.begin(), row.end());
      }
      EXPECT_EQ(rows_in_cache(ctx, cache, h, value, row_bytes), want)
          << "rank " << me << ", head " << head << (value ? ", values" : ", keys");
    }
  }
  EXPECT_EQ(cache.capacity_bytes(), 2 * row_bytes * held);
}

std::vector<std::vector<Range>> shares(int64_t heads, int ranks) {
  std::vector<std::vector<Range>> all(3);
  for (int r = 0; r < ranks; ++r) {
    all[0].push_back(split_even(heads, ranks, r));
    all[1].push_back({0, heads});
    all[2].push_back(r % 2 == 0 ? Range{r, heads} : Range{2, 2});
  }
  return all;
}

TEST_P(Reshard, MergesTheRowsOfAllRanks) {
  const std::vector<Shape> shapes = {
      {700, 32, 100, 4, 24, {0, 1, 2, 3}},
      {90, 128, 40, 2, 16, {0, 0, 1, 1, 1}},  // one block: most ranks own nothing
      {333, 32, 332, 3, 5, {2, 1, 0, 0}},
      {600, 32, 1, 2, 128, {0, 1, 0, 1}},
  };
  for (int ranks : {1, 2, 3, 4})
    run_loopback(ranks, GetParam(), [&](LoopbackRank& rank) {
      for (const Shape& s : shapes)
        for (const auto& share : shares(static_cast<int64_t>(s.source_head.size()), ranks))
          for (Counts counts : {Counts::all, Counts::equal, Counts::ragged}) {
            SCOPED_TRACE(fmt::format("L {}, {} ranks, share [{}, {}), counts {}", s.L, ranks, share[0].begin,
                                     share[0].end, static_cast<int>(counts)));
            check(rank, s, DType::f32, share, counts, /*wide=*/true);
            if (GetParam() == Device::gpu) check(rank, s, DType::bf16, share, counts, /*wide=*/false);
          }
    });
}

INSTANTIATE_TEST_SUITE_P(Devices, Reshard, ::testing::Values(Device::cpu, Device::gpu),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace restkv::testing
