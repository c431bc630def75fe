// What the groups of GPU ranks do beyond the collectives of communicator_test.cc: calls beside other work, calls in
// graphs, and the grid.
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "dist/base/error.h"
#include "dist/base/gemm.h"
#include "tests/dist/communicator_factories.h"

namespace restkv {
namespace {

using testing_support::group_of;
using testing_support::Implementation;
using testing_support::kTestTimeoutS;

class Nccl : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::string why = testing_support::unavailable(Device::gpu); !why.empty()) GTEST_SKIP() << why;
    group_ = group_of(testing_support::gpu_implementations().front());
    ctx_ = group_->ctx.get();
    world_ = group_->world.get();
  }
  static MpiRuntime& mpi_runtime() { return testing_support::mpi_runtime(); }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }

  Tensor on_device(const std::vector<int32_t>& values) {
    return ctx_->to_device(values.data(), DType::i32, {static_cast<int64_t>(values.size())});
  }
  std::vector<int32_t> on_host(const Tensor& t) const { return ctx_->to_host<int32_t>(t); }

  // Some 30 ms of work on the context's stream that uses all of the device.
  void work_long() {
    constexpr int64_t n = 8192;
    if (a_.empty()) {
      a_ = ctx_->zeros(DType::bf16, {n, n});
      product_ = ctx_->zeros(DType::bf16, {n, n});
    }
    for (int i = 0; i < 20; ++i) gemm(*ctx_, MatrixView(a_), MatrixView(a_), MatrixView(product_));
  }

  // What rank r contributes to call `seed`.
  static std::vector<int32_t> values(int r, int64_t n, int seed) {
    std::vector<int32_t> v(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) v[i] = static_cast<int32_t>((i + 1) * 7919 + r * 1000003 + seed * 31);
    return v;
  }
  std::vector<int32_t> of_all(int64_t n, int seed) const {
    std::vector<int32_t> all;
    for (int r = 0; r < size(); ++r) {
      auto part = values(r, n, seed);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

  std::shared_ptr<testing_support::Group> group_;
  Context* ctx_ = nullptr;
  Communicator* world_ = nullptr;
  Tensor a_, product_;
};

TEST_F(Nccl, BesideALongKernel) {
  const int64_t n = int64_t{1} << 24;
  Tensor send = on_device(values(rank(), n, 1)), recv = ctx_->zeros(DType::i32, {n * size()});
  Tensor copy = ctx_->zeros(DType::i32, {n * size()});
  auto ticket = world_->beside([&] { world_->all_gather(send.raw(), recv.raw(), n, DType::i32); });
  work_long();
  world_->join(ticket.get());
  ctx_->copy(copy.raw(), recv.raw(), recv.bytes());
  EXPECT_EQ(on_host(copy), of_all(n, 1));
}

TEST_F(Nccl, BesideBeginsAfterTheWorkBefore) {
  const int64_t n = int64_t{1} << 20;
  Tensor source = on_device(values(rank(), n, 2)), send = ctx_->zeros(DType::i32, {n});
  Tensor recv = ctx_->zeros(DType::i32, {n * size()});
  work_long();
  ctx_->copy(send.raw(), source.raw(), source.bytes());  // written late, sent afterwards
  auto ticket = world_->beside([&] { world_->all_gather(send.raw(), recv.raw(), n, DType::i32); });
  world_->join(ticket.get());
  ctx_->fill_zero(send.raw(), send.bytes());  // waits for the join
  EXPECT_EQ(on_host(recv), of_all(n, 2));
}

TEST_F(Nccl, CallsThatBeginAsOneAheadOfALongKernel) {
  const int64_t n = 70000;
  Tensor a = on_device(values(rank(), n, 4)), b = on_device(values(rank(), n, 5));
  Tensor all_a = ctx_->zeros(DType::i32, {n * size()}), all_b = ctx_->zeros(DType::i32, {n * size()});
  std::vector<int64_t> counts(size(), n), places(size());
  for (int r = 0; r < size(); ++r) places[r] = (size() - 1 - r) * n;  // as the upper chunks lie
  for (int i = 0; i < 3; ++i) {
    ctx_->fill_zero(all_a.raw(), all_a.bytes());
    ctx_->fill_zero(all_b.raw(), all_b.bytes());
    auto ticket = world_->beside_first([&] {
      world_->all_gather(a.raw(), all_a.raw(), n, DType::i32);
      world_->all_gather_v(b.raw(), all_b.raw(), counts, places, DType::i32);
    });
    work_long();
    world_->join(ticket.get());
    EXPECT_EQ(on_host(all_a), of_all(n, 4));
    std::vector<int32_t> want;
    for (int r = size() - 1; r >= 0; --r) {
      auto part = values(r, n, 5);
      want.insert(want.end(), part.begin(), part.end());
    }
    EXPECT_EQ(on_host(all_b), want);
  }
}

// As prefill does it: one call ahead on the other stream, other groups' calls on the context's stream, all sizes mixed.
TEST_F(Nccl, ManyCallsOnBothStreamsAndOfSeveralGroups) {
  auto half = world_->split(rank() % 2, rank(), "half");
  auto twin = world_->split(0, -rank(), "twin");  // another order: a communicator of its own
  std::mt19937 random(7);
  const int64_t most = 1 << 18;
  Tensor send = on_device(values(rank(), most, 3)), recv = ctx_->empty(DType::i32, {most * size()});
  for (int i = 0; i < 60; ++i) {
    const int64_t n = 1 + random() % most, m = 1 + random() % 5000;
    Communicator& other = i % 2 == 0 ? *half : *twin;
    auto ticket = world_->beside([&] { world_->all_gather(send.raw(), recv.raw(), n, DType::i32); });
    Tensor sum = on_device(std::vector<int32_t>(static_cast<size_t>(m), 1));
    if (i % 7 == 0) work_long();
    other.all_reduce(sum.raw(), m, DType::i32, ReduceOp::sum);
    if (i % 3 == 0) world_->all_reduce(sum.raw(), m, DType::i32, ReduceOp::max);
    world_->join(ticket.get());
    // Both halves of three ranks have other sizes: the larger one wins where the world's maximum was taken.
    const int32_t expected = i % 3 == 0 && i % 2 == 0 ? (size() + 1) / 2 : other.size();
    ASSERT_EQ(on_host(sum), std::vector<int32_t>(static_cast<size_t>(m), expected)) << "step " << i;
    std::vector<int32_t> got = on_host(recv);
    got.resize(static_cast<size_t>(n * size()));
    std::vector<int32_t> want;
    for (int r = 0; r < size(); ++r) {
      auto part = values(r, most, 3);
      want.insert(want.end(), part.begin(), part.begin() + n);
    }
    ASSERT_EQ(got, want) << "step " << i;
  }
}

// Every call in one graph, launched with new inputs, eager calls in between.
TEST_F(Nccl, CapturedCallsReplay) {
  const int64_t n = 3000;
  const int to = (rank() + 1) % size(), from = (rank() + size() - 1) % size(), root = size() - 1;
  std::vector<int64_t> counts(size()), places(size());
  int64_t end = 5;
  for (int r = 0; r < size(); ++r) counts[r] = 10 * r, places[r] = end, end += counts[r] + 2;
  Tensor input = ctx_->zeros(DType::i32, {n}), sum = ctx_->zeros(DType::i32, {n}), top = ctx_->zeros(DType::f32, {n});
  Tensor all = ctx_->zeros(DType::i32, {n * size()}), apart = ctx_->zeros(DType::i32, {end});
  Tensor told = ctx_->zeros(DType::i32, {n}), passed = ctx_->zeros(DType::i32, {n});
  Tensor late = ctx_->zeros(DType::i32, {n * size()}), floats = ctx_->zeros(DType::f32, {n});
  const CommStats before = world_->stats();
  auto graph = ctx_->gpu()->capture([&] {
    ctx_->copy(sum.raw(), input.raw(), input.bytes());
    ctx_->copy(top.raw(), floats.raw(), floats.bytes());
    ctx_->copy(told.raw(), input.raw(), input.bytes());
    auto ticket = world_->beside([&] { world_->all_gather(input.raw(), late.raw(), n, DType::i32); });
    world_->all_reduce(sum.raw(), n, DType::i32, ReduceOp::sum);
    world_->all_reduce(top.raw(), n, DType::f32, ReduceOp::max);
    world_->all_gather(input.raw(), all.raw(), n, DType::i32);
    world_->all_gather_v(input.raw(), apart.raw(), counts, places, DType::i32);
    world_->broadcast(told.raw(), n, DType::i32, root);
    world_->send_recv(input.raw(), n, to, passed.raw(), n, from, DType::i32);
    world_->barrier();
    world_->join(ticket.get());
  });
  EXPECT_EQ(world_->stats().calls, before.calls + 8);
  for (int step = 0; step < 6; ++step) {
    SCOPED_TRACE(step);
    std::vector<int32_t> own = values(rank(), n, step);
    std::vector<float> as_float(own.begin(), own.end());
    ctx_->gpu()->to_device(input.raw(), own.data(), input.bytes());
    ctx_->gpu()->to_device(floats.raw(), as_float.data(), floats.bytes());
    ctx_->gpu()->launch(graph.get());
    if (step % 2 == 1) {
      Tensor one = on_device({1});
      world_->all_reduce(one.raw(), 1, DType::i32, ReduceOp::sum);
      ASSERT_EQ(on_host(one)[0], size());
    }
    std::vector<int32_t> sums(n, 0), parts(end, 0);
    std::vector<float> tops(n, -1e30f);
    for (int r = 0; r < size(); ++r) {
      auto v = values(r, n, step);
      for (int64_t i = 0; i < n; ++i) {
        sums[i] = static_cast<int32_t>(static_cast<uint32_t>(sums[i]) + static_cast<uint32_t>(v[i]));
        tops[i] = std::max(tops[i], static_cast<float>(v[i]));
      }
      std::copy(v.begin(), v.begin() + counts[r], parts.begin() + places[r]);
    }
    EXPECT_EQ(on_host(sum), sums);
    EXPECT_EQ(ctx_->to_host<float>(top), tops);
    EXPECT_EQ(on_host(all), of_all(n, step));
    EXPECT_EQ(on_host(late), of_all(n, step));
    EXPECT_EQ(on_host(apart), parts);
    EXPECT_EQ(on_host(told), values(root, n, step));
    EXPECT_EQ(on_host(passed), values(from, n, step));
  }
}

TEST_F(Nccl, GridsOfEveryLayout) {
  for (auto [sequence, tensor] : testing::all_layouts()) {
    SCOPED_TRACE(fmt::format("{} x {}", sequence, tensor));
    auto grid = testing::make_grid_on(*ctx_, sequence, tensor, kTestTimeoutS);
    EXPECT_EQ(grid->rank(), rank());
    EXPECT_EQ(grid->sequence_rank() * tensor + grid->tensor_rank(), rank());
    int32_t on_hosts = 1;
    grid->control().all_reduce(&on_hosts, 1, DType::i32, ReduceOp::sum);
    EXPECT_EQ(on_hosts, size());
    for (Communicator* group : {&grid->world(), &grid->sequence(), &grid->tensor()}) {
      Tensor ones = on_device(std::vector<int32_t>(100, 1));
      group->all_reduce(ones.raw(), 100, DType::i32, ReduceOp::sum);
      EXPECT_EQ(on_host(ones), std::vector<int32_t>(100, group->size())) << group->name();
    }
  }
  EXPECT_THROW(testing::make_grid_on(*ctx_, size() + 1, 1), InputError);
}

}  // namespace
}  // namespace restkv
