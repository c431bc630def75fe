// The threads that stand for ranks in other tests: their collectives, on CPU memory and on one GPU.
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "dist/base/error.h"
#include "tests/dist/loopback_communicator.h"

namespace restkv::testing {
namespace {

class Loopback : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::gpu && GpuRuntime::count() == 0) GTEST_SKIP() << "no GPU";
  }
  void on_ranks(int n, const std::function<void(LoopbackRank&)>& body) { run_loopback(n, GetParam(), body); }
};

template <class T>
Tensor there(Context& ctx, const std::vector<T>& host) {
  return ctx.to_device(host.data(), dtype_of<T>(), {static_cast<int64_t>(host.size())});
}

TEST_P(Loopback, ReducesInRankOrder) {
  for (int n : {1, 2, 3, 4})
    on_ranks(n, [&](LoopbackRank& rank) {
      const int me = rank.world->rank();
      // (1 + 2^-24) + ... rounds otherwise in another order.
      std::vector<float> mine(1000), want(1000);
      for (int i = 0; i < 1000; ++i) {
        for (int r = 0; r < n; ++r) {
          const float x = r == 0 ? 1.0f : 0x1p-24f * static_cast<float>(1 + (r + i) % 3);
          want[i] = r == 0 ? x : want[i] + x;
          if (r == me) mine[i] = x;
        }
      }
      Tensor data = there(rank.ctx, mine);
      rank.world->all_reduce(data.raw(), 1000, DType::f32, ReduceOp::sum);
      EXPECT_EQ(rank.ctx.to_host<float>(data), want);
      Tensor numbers = there(rank.ctx, std::vector<int64_t>{int64_t{1} << 40 << me, -me});
      rank.world->all_reduce(numbers.raw(), 2, DType::i64, ReduceOp::max);
      EXPECT_EQ(rank.ctx.to_host<int64_t>(numbers), (std::vector<int64_t>{int64_t{1} << 40 << (n - 1), 0}));
      std::vector<bf16> halves = {to_bf16(1.0f + static_cast<float>(me)), to_bf16(me == 0 ? 256.0f : 1.0f)};
      Tensor sums = rank.ctx.to_device(halves.data(), DType::bf16, {2});
      const int64_t sent = rank.world->stats().bytes_sent;
      rank.world->all_reduce(sums.raw(), 2, DType::bf16, ReduceOp::sum);
      halves = rank.ctx.to_host<bf16>(sums);
      EXPECT_EQ(to_float(halves[0]), static_cast<float>(n * (n + 1)) / 2);
      EXPECT_EQ(to_float(halves[1]), 256.0f);  // each 1 is rounded away
      EXPECT_EQ(sent, 2 * (n - 1) * 4000 / n + 2 * (n - 1) * 16 / n);
    });
}

TEST_P(Loopback, GathersBroadcastsAndSends) {
  for (int n : {1, 2, 3, 4})
    on_ranks(n, [&](LoopbackRank& rank) {
      Communicator& world = *rank.world;
      const int me = world.rank();
      Tensor mine = there(rank.ctx, std::vector<int32_t>{me, 10 + me}), all = rank.ctx.empty(DType::i32, {2 * n});
      world.all_gather(mine.raw(), all.raw(), 2, DType::i32);
      std::vector<int32_t> want;
      for (int r = 0; r < n; ++r) want.insert(want.end(), {r, 10 + r});
      EXPECT_EQ(rank.ctx.to_host<int32_t>(all), want);

      // Rank r gives r values, the last rank's first.
      std::vector<int64_t> counts, displacements;
      for (int r = 0; r < n; ++r) counts.push_back(r), displacements.push_back((n - 1 - r) * n);
      Tensor part = there(rank.ctx, std::vector<int32_t>(static_cast<size_t>(me), me));
      Tensor ragged = rank.ctx.zeros(DType::i32, {n * n});
      world.all_gather_v(part.raw(), ragged.raw(), counts, displacements, DType::i32);
      std::vector<int32_t> ragged_want(static_cast<size_t>(n * n), 0);
      for (int r = 0; r < n; ++r)
        for (int i = 0; i < r; ++i) ragged_want[static_cast<size_t>((n - 1 - r) * n + i)] = r;
      EXPECT_EQ(rank.ctx.to_host<int32_t>(ragged), ragged_want);

      Tensor told = there(rank.ctx, std::vector<int32_t>{100 + me});
      world.broadcast(told.raw(), 1, DType::i32, n - 1);
      EXPECT_EQ(rank.ctx.to_host<int32_t>(told), (std::vector<int32_t>{100 + n - 1}));

      Tensor from = rank.ctx.zeros(DType::i32, {2});
      world.send_recv(mine.raw(), 2, (me + 1) % n, from.raw(), 2, (me + n - 1) % n, DType::i32);
      EXPECT_EQ(rank.ctx.to_host<int32_t>(from)[1], 10 + (me + n - 1) % n);
      world.barrier();
    });
}

// What one call has read, the next may overwrite at once; what runs beside is there after join().
TEST_P(Loopback, KeepsTheOrderOfManyCalls) {
  on_ranks(4, [&](LoopbackRank& rank) {
    constexpr int64_t kCount = 1 << 20;
    Tensor data = rank.ctx.empty(DType::i32, {kCount}), all = rank.ctx.empty(DType::i32, {4 * kCount});
    for (int round = 0; round < 20; ++round) {
      const std::vector<int32_t> value(1, 7 * round + rank.world->rank());
      rank.ctx.fill_zero(data.raw(), data.bytes());
      Tensor last = rank.ctx.to_device(value.data(), DType::i32, {1});
      rank.ctx.copy(data.data<int32_t>() + kCount - 1, last.raw(), 4);
      const auto ticket =
          rank.world->beside([&] { rank.world->all_gather(data.raw(), all.raw(), kCount, DType::i32); });
      if (round % 2 == 0) {
        Tensor sum = there(rank.ctx, std::vector<int32_t>{1});
        rank.world->all_reduce(sum.raw(), 1, DType::i32, ReduceOp::sum);
        EXPECT_EQ(rank.ctx.to_host<int32_t>(sum)[0], 4);
      }
      rank.world->join(ticket.get());
      Tensor found = rank.ctx.empty(DType::i32, {4});
      for (int r = 0; r < 4; ++r)
        rank.ctx.copy(found.data<int32_t>() + r, all.data<int32_t>() + (r + 1) * kCount - 1, 4);
      EXPECT_EQ(rank.ctx.to_host<int32_t>(found),
                (std::vector<int32_t>{7 * round, 7 * round + 1, 7 * round + 2, 7 * round + 3}));
    }
  });
}

TEST_P(Loopback, FormsGrids) {
  on_ranks(4, [&](LoopbackRank& rank) {
    for (auto [sequence, tensor] : {std::pair{4, 1}, {2, 2}, {1, 4}}) {
      ProcessGrid grid = loopback_grid(rank, sequence, tensor);
      EXPECT_EQ(grid.rank(), grid.sequence_rank() * tensor + grid.tensor_rank());
      Tensor sum = there(rank.ctx, std::vector<int32_t>{grid.rank()});
      grid.tensor().all_reduce(sum.raw(), 1, DType::i32, ReduceOp::sum);
      int32_t want = 0;
      for (int t = 0; t < tensor; ++t) want += grid.sequence_rank() * tensor + t;
      EXPECT_EQ(rank.ctx.to_host<int32_t>(sum)[0], want);
      std::vector<int32_t> host = {grid.rank()};
      grid.control().all_reduce(std::span<int32_t>(host));
      EXPECT_EQ(host[0], 6);
    }
  });
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const RuntimeFailure& e) {
    return e.what();
  }
  return "";
}

TEST_P(Loopback, OneFailureEndsAll) {
  EXPECT_EQ(error_of([&] {
              on_ranks(3, [](LoopbackRank& rank) {
                if (rank.world->rank() == 1) fail_runtime("rank 1 has enough");
                rank.world->barrier();
              });
            }),
            "rank 1 has enough");
  EXPECT_NE(error_of([&] {
              on_ranks(2, [](LoopbackRank& rank) {
                Tensor data = rank.ctx.zeros(DType::f32, {8});
                rank.world->all_reduce(data.raw(), 4 + rank.world->rank(), DType::f32, ReduceOp::sum);
              });
            }).find("rank 1 calls all_reduce of 5"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              run_loopback(
                  2, GetParam(),
                  [](LoopbackRank& rank) {
                    if (rank.world->rank() == 0) rank.world->barrier();
                  },
                  0.3);
            }).find("1 of 2 ranks came"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Devices, Loopback, ::testing::Values(Device::cpu, Device::gpu),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace restkv::testing
