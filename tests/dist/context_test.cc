#include "dist/base/context.h"

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "dist/base/error.h"

namespace restkv {
namespace {

TEST(Context, MemoryIsAlignedCountedAndZeroed) {
  Context ctx({Device::cpu, 1});
  EXPECT_EQ(ctx.memory().current(), 0);
  std::optional<Tensor> a = ctx.empty(DType::bf16, {3, 5});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a->raw()) % 64, 0u);
  EXPECT_EQ(ctx.memory().current(), 30);
  Tensor b = ctx.zeros(DType::i64, {1000});
  for (int64_t x : b.span<int64_t>()) ASSERT_EQ(x, 0);
  EXPECT_EQ(ctx.memory().current(), 8030);
  a.reset();
  EXPECT_EQ(ctx.memory().current(), 8000);
  EXPECT_EQ(ctx.memory().peak(), 8030);
  ctx.memory().reset_peak();
  EXPECT_EQ(ctx.memory().peak(), 8000);
  Tensor none = ctx.zeros(DType::f32, {0, 7});
  EXPECT_EQ(none.numel(), 0);
  EXPECT_NE(none.raw(), nullptr);
}

TEST(Context, TensorsMayOutliveIt) {
  Tensor t;
  {
    Context ctx({Device::cpu, 1});
    t = ctx.zeros(DType::u8, {10});
  }
  t.data<uint8_t>()[9] = 1;
}

TEST(Context, ImpossibleSizesAreRefused) {
  Context ctx({Device::cpu, 1});
  EXPECT_THROW(ctx.empty(DType::f32, {int64_t{1} << 60}), RuntimeFailure);
  EXPECT_THROW(ctx.empty(DType::f32, {int64_t{1} << 40, int64_t{1} << 40}), RuntimeFailure);
  EXPECT_THROW(ctx.empty(DType::f32, {-3, 2}), RuntimeFailure);
  EXPECT_EQ(ctx.memory().current(), 0);
}

TEST(Context, AGpuThatIsNotThereIsAnInputError) {
  // Builds with a GPU backend test the opposite in their own test.
  try {
    Context ctx({Device::gpu, 1});
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("gpu"), std::string::npos) << e.what();
  }
}

TEST(MemoryAccount, PeakUnderThreads) {
  MemoryAccount account;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) {
        account.add(3);
        account.remove(3);
      }
      account.add(100);
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(account.current(), 400);
  EXPECT_GE(account.peak(), 400);
  EXPECT_LE(account.peak(), 412);
}

TEST(ParallelFor, EveryItemOnce) {
  for (int threads : {1, 2, 5}) {
    Context ctx({Device::cpu, threads});
    EXPECT_EQ(ctx.threads(), threads);
    for (int64_t n : {-1, 0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(std::max<int64_t>(n, 0)));
      ctx.parallel_for(n, [&](int64_t i) { ++seen[i]; });
      for (auto& count : seen) ASSERT_EQ(count, 1);
    }
  }
  EXPECT_GE(Context({Device::cpu, 0}).threads(), 1);
}

TEST(ParallelFor, UsesItsThreads) {
  Context ctx({Device::cpu, 3});
  // Items that wait for each other end only when they run at the same time.
  std::atomic<int> arrived{0};
  ctx.parallel_for(3, [&](int64_t) {
    ++arrived;
    for (int i = 0; i < 10000 && arrived < 3; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(arrived, 3);
  });
}

TEST(ParallelFor, AnExceptionReachesTheCaller) {
  for (int threads : {1, 4}) {
    Context ctx({Device::cpu, threads});
    std::atomic<int> done{0};
    try {
      ctx.parallel_for(100, [&](int64_t i) {
        if (i == 37) fail_input("item {}", i);
        ++done;
      });
      FAIL() << "no exception with " << threads << " threads";
    } catch (const InputError& e) {
      EXPECT_STREQ(e.what(), "item 37");
    }
    EXPECT_LE(done, 99);
    // Still usable, and when all items throw there is one exception.
    EXPECT_THROW(ctx.parallel_for(50, [](int64_t) { fail_runtime("all"); }), RuntimeFailure);
    done = 0;
    ctx.parallel_for(10, [&](int64_t) { ++done; });
    EXPECT_EQ(done, 10);
  }
}

TEST(ParallelFor, Nested) {
  Context ctx({Device::cpu, 2});
  std::atomic<int> done{0};
  ctx.parallel_for(4, [&](int64_t) { ctx.parallel_for(5, [&](int64_t) { ++done; }); });
  EXPECT_EQ(done, 20);
}

TEST(Error, KindsCodesAndChecks) {
  EXPECT_EQ(InputError("x").exit_code(), 2);
  EXPECT_EQ(RuntimeFailure("x").exit_code(), 1);
  try {
    RESTKV_CHECK(1 + 1 == 3, "found {}", 2);
    FAIL();
  } catch (const RuntimeFailure& e) {
    std::string text = e.what();
    EXPECT_NE(text.find("context_test.cc:"), std::string::npos) << text;
    EXPECT_NE(text.find("1 + 1 == 3: found 2"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace restkv
