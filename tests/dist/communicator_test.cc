// Every collective of every implementation, on as many ranks as mpirun started.
#include "dist/comm/communicator.h"

#include <gtest/gtest.h>
#include <mpi.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "dist/base/error.h"
#include "dist/comm/collective.h"
#include "tests/dist/communicator_factories.h"

namespace restkv {
namespace {

using testing_support::Implementation;
using testing_support::to_device;
using testing_support::to_host;

constexpr DType kAllTypes[] = {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32,
                               DType::i64, DType::u32,  DType::u64, DType::u8};
constexpr int64_t kCounts[] = {0, 1, 2, 3, 7, 8, 31, 1000, 4099};

// The bytes that rank `rank` contributes: the same function on every rank, so each knows what to expect.
std::vector<char> bytes_of(int rank, int64_t count, DType dtype, unsigned seed = 0) {
  std::mt19937 random(1000u * seed + 17u * rank + static_cast<unsigned>(dtype) + 1u);
  std::vector<char> bytes(static_cast<size_t>(count * size_of(dtype)));
  for (char& b : bytes) b = static_cast<char>(random());
  return bytes;
}

int mpi_world_size() {
  int initialized = 0, size = 1;
  MPI_Initialized(&initialized);
  if (initialized) MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

class Collectives : public ::testing::TestWithParam<Implementation> {
 protected:
  void SetUp() override {
    if (std::string why = testing_support::unavailable(GetParam().device); !why.empty()) GTEST_SKIP() << why;
    group_ = testing_support::group_of(GetParam());
    ctx_ = group_->ctx.get();
    world_ = group_->world.get();
  }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  Tensor filled(DType dtype, int64_t count, char byte) {
    return to_device(*ctx_, dtype, std::vector<char>(static_cast<size_t>(count * size_of(dtype)), byte));
  }

  // Whether all ranks of `group` hold the same bytes.
  bool same_everywhere(Communicator& group, const Tensor& t) {
    Tensor all = filled(DType::u8, t.bytes() * group.size(), 0);
    group.all_gather(t.raw(), all.raw(), t.bytes(), DType::u8);
    std::vector<char> host = to_host(*ctx_, all), own = to_host(*ctx_, t);
    for (int r = 0; r < group.size(); ++r)
      if (!std::equal(own.begin(), own.end(), host.begin() + r * t.bytes())) return false;
    return true;
  }

  template <class T>
  void check_all_reduce(int64_t count, ReduceOp op, const std::function<T(int rank, int64_t i)>& value) {
    std::vector<T> own(count), expected(count);
    for (int64_t i = 0; i < count; ++i) {
      own[i] = value(rank(), i);
      T sum = value(0, i);
      for (int r = 1; r < size(); ++r) {
        T x = value(r, i);
        sum = op == ReduceOp::sum ? static_cast<T>(sum + x) : op == ReduceOp::max ? std::max(sum, x) : std::min(sum, x);
      }
      expected[i] = sum;
    }
    std::vector<char> bytes(count * sizeof(T));
    if (count > 0) std::memcpy(bytes.data(), own.data(), bytes.size());
    Tensor t = to_device(*ctx_, dtype_of<T>(), bytes);
    world_->all_reduce(t.raw(), count, dtype_of<T>(), op);
    EXPECT_TRUE(same_everywhere(*world_, t));
    std::vector<char> result = to_host(*ctx_, t);
    for (int64_t i = 0; i < count; ++i) {
      T got;
      std::memcpy(&got, &result[i * sizeof(T)], sizeof(T));
      if (std::is_integral_v<T> || op != ReduceOp::sum || GetParam().folds_in_rank_order)
        ASSERT_EQ(got, expected[i]) << "element " << i << " of " << count;
      else
        ASSERT_NEAR(static_cast<double>(got), static_cast<double>(expected[i]), size() * 1e-6 * 4.0);
    }
  }

  // `values` after an all_reduce over `group`.
  template <class T>
  std::vector<T> all_reduced(Communicator& group, const std::vector<T>& values, ReduceOp op = ReduceOp::sum) {
    Tensor t = ctx_->to_device(values.data(), dtype_of<T>(), {static_cast<int64_t>(values.size())});
    group.all_reduce(t.raw(), t.numel(), dtype_of<T>(), op);
    return ctx_->to_host<T>(t);
  }

  std::shared_ptr<testing_support::Group> group_;
  Context* ctx_ = nullptr;
  Communicator* world_ = nullptr;
};

TEST_P(Collectives, RankAndSizeAreMpis) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  EXPECT_EQ(world_->rank(), rank);
  EXPECT_EQ(world_->size(), mpi_world_size());
  EXPECT_EQ(world_->name(), "world");
}

TEST_P(Collectives, AllGatherEveryType) {
  for (DType dtype : kAllTypes)
    for (int64_t count : kCounts) {
      Tensor send = to_device(*ctx_, dtype, bytes_of(rank(), count, dtype));
      Tensor recv = filled(dtype, size() * count, 0x55);
      world_->all_gather(send.raw(), recv.raw(), count, dtype);
      std::vector<char> expected;
      for (int r = 0; r < size(); ++r) {
        std::vector<char> part = bytes_of(r, count, dtype);
        expected.insert(expected.end(), part.begin(), part.end());
      }
      ASSERT_EQ(to_host(*ctx_, recv), expected) << name_of(dtype) << " x " << count;
    }
}

TEST_P(Collectives, AllGatherInPlace) {
  for (int64_t count : kCounts) {
    std::vector<char> start(static_cast<size_t>(size() * count * 4), 0), expected;
    for (int r = 0; r < size(); ++r) {
      std::vector<char> part = bytes_of(r, count, DType::f32);
      if (r == rank()) std::copy(part.begin(), part.end(), start.begin() + r * count * 4);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    Tensor recv = to_device(*ctx_, DType::f32, start);
    world_->all_gather(static_cast<char*>(recv.raw()) + rank() * count * 4, recv.raw(), count, DType::f32);
    ASSERT_EQ(to_host(*ctx_, recv), expected) << count;
  }
}

// Random counts (often zero), ranks placed in random order with gaps, which have to stay untouched.
TEST_P(Collectives, AllGatherVWithZerosGapsAndAnyOrder) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    DType dtype = kAllTypes[random() % std::size(kAllTypes)];
    std::vector<int64_t> counts(size()), displacements(size());
    std::vector<int> order(size());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    int64_t end = random() % 3;
    for (int r : order) {
      counts[r] = random() % 3 == 0 ? 0 : random() % 50;
      displacements[r] = end;
      end += counts[r] + random() % 4;
    }
    bool in_place = seed % 2 == 1;
    int64_t element = size_of(dtype);
    std::vector<char> expected(static_cast<size_t>(end * element), 0x55), start = expected;
    for (int r = 0; r < size(); ++r) {
      std::vector<char> part = bytes_of(r, counts[r], dtype, seed);
      std::copy(part.begin(), part.end(), expected.begin() + displacements[r] * element);
      if (in_place && r == rank()) std::copy(part.begin(), part.end(), start.begin() + displacements[r] * element);
    }
    Tensor recv = to_device(*ctx_, dtype, start);
    Tensor own = to_device(*ctx_, dtype, bytes_of(rank(), counts[rank()], dtype, seed));
    void* send = in_place ? static_cast<char*>(recv.raw()) + displacements[rank()] * element : own.raw();
    world_->all_gather_v(send, recv.raw(), counts, displacements, dtype);
    ASSERT_EQ(to_host(*ctx_, recv), expected) << "seed " << seed << " " << name_of(dtype);
  }
}

TEST_P(Collectives, AllGatherVOfNothing) {
  std::vector<int64_t> zeros(size(), 0);
  world_->all_gather_v(nullptr, nullptr, zeros, zeros, DType::bf16);
}

TEST_P(Collectives, BroadcastFromEveryRoot) {
  for (DType dtype : kAllTypes)
    for (int64_t count : kCounts)
      for (int root = 0; root < size(); ++root) {
        Tensor t = to_device(*ctx_, dtype, bytes_of(rank(), count, dtype, 3));
        world_->broadcast(t.raw(), count, dtype, root);
        ASSERT_EQ(to_host(*ctx_, t), bytes_of(root, count, dtype, 3))
            << name_of(dtype) << " x " << count << " from " << root;
      }
}

TEST_P(Collectives, SendRecvAroundTheRing) {
  for (DType dtype : kAllTypes)
    for (int shift = 0; shift < size(); ++shift) {
      int to = (rank() + shift) % size(), from = (rank() - shift + size()) % size();
      // Other lengths from every rank: 0, 9, 18, ...
      Tensor send = to_device(*ctx_, dtype, bytes_of(rank(), 9 * rank(), dtype, shift));
      Tensor recv = filled(dtype, 9 * from, 0x55);
      world_->send_recv(send.raw(), 9 * rank(), to, recv.raw(), 9 * from, from, dtype);
      ASSERT_EQ(to_host(*ctx_, recv), bytes_of(from, 9 * from, dtype, shift)) << name_of(dtype) << " shift " << shift;
    }
}

TEST_P(Collectives, SendRecvWithOpenEnds) {
  // A shift without wrap-around, as a halo exchange makes it: the ends have no neighbour.
  int to = rank() + 1 < size() ? rank() + 1 : -1, from = rank() - 1;
  for (int64_t count : kCounts) {
    Tensor send = to_device(*ctx_, DType::f32, bytes_of(rank(), count, DType::f32));
    Tensor recv = filled(DType::f32, count, 0x55);
    world_->send_recv(send.raw(), count, to, recv.raw(), count, from, DType::f32);
    std::vector<char> untouched(static_cast<size_t>(count * 4), 0x55);
    ASSERT_EQ(to_host(*ctx_, recv), from >= 0 ? bytes_of(from, count, DType::f32) : untouched);
  }
  world_->send_recv(nullptr, 0, -1, nullptr, 0, -1, DType::f32);
}

template <class T>
T integer_value(int rank, int64_t i) {
  return static_cast<T>(static_cast<T>(rank * 31 + 5) * static_cast<T>(i + 1) - static_cast<T>(7 * rank));
}

TEST_P(Collectives, AllReduceIntegers) {
  for (ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min})
    for (int64_t count : kCounts) {
      check_all_reduce<int32_t>(count, op, integer_value<int32_t>);
      check_all_reduce<int64_t>(count, op, integer_value<int64_t>);
      check_all_reduce<uint32_t>(count, op, integer_value<uint32_t>);
      check_all_reduce<uint64_t>(count, op, integer_value<uint64_t>);
    }
}

TEST_P(Collectives, AllReduceUsesAllBitsOfUnsignedAndSigned) {
  check_all_reduce<uint64_t>(3, ReduceOp::max, [](int r, int64_t) { return ~uint64_t{0} - 2u * r; });
  check_all_reduce<uint32_t>(3, ReduceOp::max, [](int r, int64_t) { return 0xffffffffu - 2u * r; });
  check_all_reduce<int64_t>(3, ReduceOp::min, [](int r, int64_t) { return r == 0 ? 5 : -r; });
  check_all_reduce<uint64_t>(3, ReduceOp::sum, [](int r, int64_t i) { return (uint64_t{1} << 63) + r + i; });
}

template <class T>
T float_value(int rank, int64_t i) {
  return static_cast<T>(std::sin(0.7 * (i + 1) * (rank + 1)) * std::exp2(i % 5));
}

TEST_P(Collectives, AllReduceFloats) {
  for (ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min})
    for (int64_t count : kCounts) {
      check_all_reduce<float>(count, op, float_value<float>);
      check_all_reduce<double>(count, op, float_value<double>);
    }
}

// Sums that bf16 holds exactly, whatever the order and the rounding between.
TEST_P(Collectives, AllReduceSumsBf16) {
  for (int64_t count : kCounts) {
    std::vector<char> bytes(static_cast<size_t>(count) * sizeof(bf16));
    for (int64_t i = 0; i < count; ++i) {
      bf16 x = to_bf16(static_cast<float>((i % 7 - 3) * (rank() + 1)) * 0.5f);
      std::memcpy(&bytes[static_cast<size_t>(i) * sizeof(bf16)], &x, sizeof(x));
    }
    Tensor t = to_device(*ctx_, DType::bf16, bytes);
    world_->all_reduce(t.raw(), count, DType::bf16, ReduceOp::sum);
    std::vector<char> got = to_host(*ctx_, t);
    for (int64_t i = 0; i < count; ++i) {
      bf16 x;
      std::memcpy(&x, &got[static_cast<size_t>(i) * sizeof(bf16)], sizeof(x));
      ASSERT_EQ(to_float(x), static_cast<float>((i % 7 - 3) * size() * (size() + 1) / 2) * 0.5f) << count << " " << i;
    }
  }
}

TEST_P(Collectives, AllReduceBitsDependNeitherOnCountNorOnPlace) {
  if (!GetParam().folds_in_rank_order) GTEST_SKIP() << "not promised by " << GetParam().name;
  // The same values at both ends of a long buffer and alone in a short one.
  constexpr int64_t kLong = 5000;
  std::vector<float> big(kLong), small(3);
  for (int64_t i = 0; i < kLong; ++i) big[i] = float_value<float>(rank(), i % 3 + 11);
  for (int64_t i = 0; i < 3; ++i) small[i] = float_value<float>(rank(), i + 11);
  big = all_reduced(*world_, big);
  small = all_reduced(*world_, small);
  for (int64_t i = 0; i < kLong; ++i) ASSERT_EQ(big[i], small[i % 3]) << i;
}

TEST_P(Collectives, AllReduceKeepsNanAndInfinity) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min})
    for (int who = 0; who < size(); ++who) {
      std::vector<char> bytes(5 * 4);
      float values[5] = {1.0f * rank(), rank() == who ? nan : 1.0f, rank() == who ? inf : 2.0f,
                         rank() == who ? -inf : 2.0f, rank() == who ? -0.0f : 0.0f};
      std::memcpy(bytes.data(), values, sizeof(values));
      Tensor t = to_device(*ctx_, DType::f32, bytes);
      world_->all_reduce(t.raw(), 5, DType::f32, op);
      EXPECT_TRUE(same_everywhere(*world_, t)) << "NaN and signed zeros included";
      float got[5];
      std::memcpy(got, to_host(*ctx_, t).data(), sizeof(got));
      EXPECT_TRUE(std::isnan(got[1]));
      if (op == ReduceOp::max) {
        EXPECT_EQ(got[2], inf);
      }
      if (op == ReduceOp::min) {
        EXPECT_EQ(got[3], -inf);
      }
      if (op == ReduceOp::sum) {
        EXPECT_EQ(got[2], inf);
      }
    }
}

TEST_P(Collectives, AllReduceRefusesTypesWithoutReduction) {
  uint16_t x[2] = {0, 0};
  EXPECT_THROW(world_->all_reduce(x, 1, DType::bf16, ReduceOp::max), RuntimeFailure);
  for (DType dtype : {DType::f16, DType::u8}) {
    try {
      world_->all_reduce(x, 1, dtype, ReduceOp::sum);
      FAIL() << name_of(dtype);
    } catch (const RuntimeFailure& e) {
      EXPECT_NE(std::string(e.what()).find(name_of(dtype)), std::string::npos) << e.what();
    }
  }
}

TEST_P(Collectives, BadArgumentsAreRefused) {
  std::vector<int64_t> right(size(), 0), wrong(size() + 1, 0), negative(size(), -1);
  EXPECT_THROW(world_->all_gather_v(nullptr, nullptr, wrong, right, DType::f32), RuntimeFailure);
  EXPECT_THROW(world_->all_gather_v(nullptr, nullptr, right, wrong, DType::f32), RuntimeFailure);
  EXPECT_THROW(world_->all_gather_v(nullptr, nullptr, negative, right, DType::f32), RuntimeFailure);
  EXPECT_THROW(world_->broadcast(nullptr, 0, DType::f32, size()), RuntimeFailure);
  EXPECT_THROW(world_->all_gather(nullptr, nullptr, -1, DType::f32), RuntimeFailure);
  EXPECT_THROW(world_->send_recv(nullptr, 0, size(), nullptr, 0, -1, DType::f32), RuntimeFailure);
  EXPECT_THROW(world_->send_recv(nullptr, 0, rank(), nullptr, 0, -1, DType::f32), RuntimeFailure);
  EXPECT_THROW(world_->split(-1, 0, "none"), RuntimeFailure);
}

TEST_P(Collectives, SplitGroupsKeepTheirOrderAndTalkApart) {
  // Odd and even ranks, in reverse order.
  auto half = world_->split(rank() % 2, -rank(), "half");
  std::vector<int> members;
  for (int r = size() - 1; r >= 0; --r)
    if (r % 2 == rank() % 2) members.push_back(r);
  EXPECT_EQ(half->name(), "half");
  ASSERT_EQ(half->size(), static_cast<int>(members.size()));
  ASSERT_EQ(members[half->rank()], rank());

  const int32_t number = rank();
  Tensor own = ctx_->to_device(&number, DType::i32, {1}), got = ctx_->empty(DType::i32, {half->size()});
  half->all_gather(own.raw(), got.raw(), 1, DType::i32);
  EXPECT_EQ(ctx_->to_host<int32_t>(got), std::vector<int32_t>(members.begin(), members.end()));
  std::vector<int64_t> sum = all_reduced<int64_t>(*half, {rank() + 1});
  EXPECT_EQ(sum[0], std::accumulate(members.begin(), members.end(), int64_t{0}) + half->size());

  // A split of a split, and the groups outlive the group that they come from.
  auto alone = half->split(half->rank(), 0, "alone");
  half.reset();
  EXPECT_EQ(alone->size(), 1);
  EXPECT_EQ(all_reduced(*alone, sum), sum);
  alone->barrier();
  // A group that is the whole one in another order.
  auto reversed = world_->split(3, -rank(), "reversed");
  EXPECT_EQ(reversed->rank(), size() - 1 - rank());
  EXPECT_EQ(all_reduced<int64_t>(*reversed, {rank()}), all_reduced<int64_t>(*world_, {rank()}));
}

TEST_P(Collectives, StatsCountByTheDocumentedFormulas) {
  const int64_t n = size();
  auto sent_by = [&](auto&& call) {
    CommStats before = world_->stats();
    call();
    EXPECT_EQ(world_->stats().calls, before.calls + 1);
    return world_->stats().bytes_sent - before.bytes_sent;
  };
  Tensor x = filled(DType::f32, 120, 0), all = filled(DType::f32, 120 * n, 0);
  EXPECT_EQ(sent_by([&] { world_->all_reduce(x.raw(), 120, DType::f32, ReduceOp::sum); }), 2 * 480 * (n - 1) / n);
  EXPECT_EQ(sent_by([&] { world_->all_gather(x.raw(), all.raw(), 120, DType::f32); }), 480 * (n - 1));
  std::vector<int64_t> counts(n), displacements(n);
  for (int r = 0; r < n; ++r) counts[r] = 10 * r, displacements[r] = 120 * r;
  EXPECT_EQ(sent_by([&] { world_->all_gather_v(x.raw(), all.raw(), counts, displacements, DType::f32); }),
            40 * rank() * (n - 1));
  EXPECT_EQ(sent_by([&] { world_->broadcast(x.raw(), 120, DType::f32, 0); }), rank() == 0 ? 480 * (n - 1) : 0);
  int to = (rank() + 1) % size(), from = (rank() + size() - 1) % size();
  EXPECT_EQ(sent_by([&] { world_->send_recv(x.raw(), 5, to, all.raw(), 5, from, DType::f32); }), n > 1 ? 20 : 0);
  EXPECT_EQ(sent_by([&] { world_->send_recv(x.raw(), 5, -1, all.raw(), 5, -1, DType::f32); }), 0);
  EXPECT_EQ(sent_by([&] { world_->barrier(); }), 0);
}

// Runs of random calls: what one call leaves behind must not disturb the next.
TEST_P(Collectives, ManyCallsInARow) {
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    int64_t count = random() % 40;
    switch (random() % 4) {
      case 0: check_all_reduce<float>(count, ReduceOp::sum, float_value<float>); break;
      case 1: world_->barrier(); break;
      case 2: {
        Tensor t = to_device(*ctx_, DType::bf16, bytes_of(rank(), count, DType::bf16, i));
        int root = static_cast<int>(random() % size());
        world_->broadcast(t.raw(), count, DType::bf16, root);
        ASSERT_EQ(to_host(*ctx_, t), bytes_of(root, count, DType::bf16, i));
        break;
      }
      default: {
        Tensor send = to_device(*ctx_, DType::i64, bytes_of(rank(), count, DType::i64, i));
        Tensor recv = filled(DType::i64, count * size(), 0);
        world_->all_gather(send.raw(), recv.raw(), count, DType::i64);
        ASSERT_TRUE(same_everywhere(*world_, recv));
      }
    }
  }
}

// More elements than MPI counts. Needs 2 GiB of memory per rank and rank: runs only with RESTKV_TEST_LARGE set.
TEST_P(Collectives, MoreElementsThanAnInt) {
  if (std::getenv("RESTKV_TEST_LARGE") == nullptr) GTEST_SKIP() << "set RESTKV_TEST_LARGE to run";
  if (GetParam().name == "mpi_in_pieces") GTEST_SKIP() << "seven elements at a time take too long";
  const int64_t n = (int64_t{1} << 31) + 13, step = 4093;
  auto value = [&](int r, int64_t i) { return static_cast<uint8_t>(i == n - 1 ? 100 + r : i / step + r); };
  std::vector<uint8_t> mine(n);
  for (int64_t i = 0; i < n; i += step) mine[i] = value(rank(), i);
  mine[n - 1] = value(rank(), n - 1);
  Tensor own = ctx_->to_device(mine.data(), DType::u8, {n}), all = ctx_->empty(DType::u8, {n * size()});
  world_->all_gather(own.raw(), all.raw(), n, DType::u8);
  std::vector<uint8_t> got = ctx_->to_host<uint8_t>(all);
  for (int r = 0; r < size(); ++r) {
    ASSERT_EQ(got[n * (r + 1) - 1], value(r, n - 1));
    for (int64_t i = 0; i < n - 1; i += step) ASSERT_EQ(got[n * r + i], value(r, i));
  }
  world_->broadcast(own.raw(), n, DType::u8, size() - 1);
  got = ctx_->to_host<uint8_t>(own);
  ASSERT_EQ(got[n - 1], value(size() - 1, n - 1));
  for (int64_t i = 0; i < n - 1; i += step) ASSERT_EQ(got[i], value(size() - 1, i));
}

std::vector<Implementation> implementations() {
#ifdef RESTKV_TEST_GPU_GROUPS  // communicator_gpu_test
  return testing_support::gpu_implementations();
#else
  return testing_support::cpu_implementations(mpi_world_size());
#endif
}

INSTANTIATE_TEST_SUITE_P(All, Collectives, ::testing::ValuesIn(implementations()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace restkv
