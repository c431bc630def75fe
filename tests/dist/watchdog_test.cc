#include "dist/comm/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "dist/base/error.h"

namespace restkv {
namespace {

using Clock = std::chrono::steady_clock;

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

struct Report {
  std::atomic<int> calls{0};
  std::string message;
  Watchdog::OnExpired callback() {
    return [this](const std::string& text) {
      message = text;
      ++calls;
    };
  }
  bool wait_for(int ms) {
    for (int i = 0; i < ms && calls == 0; ++i) sleep_ms(1);
    return calls > 0;
  }
};

TEST(Watchdog, CallsThatEndInTimeAreNotReported) {
  Report report;
  {
    Watchdog watchdog(0.2, 0, report.callback());
    // Together far longer than the deadline, each far shorter.
    for (int i = 0; i < 100; ++i) {
      auto scope = watchdog.enter("barrier", "world", 0);
      sleep_ms(4);
    }
  }
  EXPECT_EQ(report.calls, 0);
}

TEST(Watchdog, NothingOpenMeansNoDeadline) {
  Report report;
  Watchdog watchdog(0.02, 0, report.callback());
  { auto scope = watchdog.enter("barrier", "world", 0); }
  sleep_ms(150);
  EXPECT_EQ(report.calls, 0);
}

TEST(Watchdog, ALateCallIsReportedOnceWithItsNames) {
  Report report;
  ::testing::internal::CaptureStderr();
  auto begin = Clock::now();
  {
    Watchdog watchdog(0.1, 3, report.callback());
    auto fine = watchdog.enter("broadcast", "world", 8);
    { auto moved = std::move(fine); }
    ActivityScope stage("prefill");
    activity().layer = 7;
    activity().step = "exchange";
    auto scope = watchdog.enter("all_gather", "sequence", 4096);
    activity().layer = 8;  // what counts is what was being done when the call began
    ASSERT_TRUE(report.wait_for(5000));
    EXPECT_GE(std::chrono::duration<double>(Clock::now() - begin).count(), 0.1);
    sleep_ms(300);
  }
  std::string printed = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(report.calls, 1);
  EXPECT_EQ(printed, report.message + "\n");
  EXPECT_EQ(
      printed.find(
          "rank 3, prefill, layer 7, exchange: all_gather of 4096 bytes in group sequence did not end within 0.1 s"),
      0u)
      << printed;
}

TEST(Watchdog, OneLateCallAmongManyQuickOnesIsFound) {
  Report report;
  ::testing::internal::CaptureStderr();
  Watchdog watchdog(0.1, 0, report.callback());
  auto late = watchdog.enter("all_reduce", "tensor", 7);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      while (!stop) auto scope = watchdog.enter("barrier", "world", 0);
    });
  bool found = report.wait_for(5000);
  stop = true;
  for (std::thread& t : threads) t.join();
  ::testing::internal::GetCapturedStderr();
  ASSERT_TRUE(found);
  EXPECT_NE(report.message.find("all_reduce of 7 bytes in group tensor"), std::string::npos) << report.message;
}

TEST(Watchdog, AScopeMayEndElsewhereAndOutOfOrder) {
  Report report;
  {
    Watchdog watchdog(0.5, 0, report.callback());
    std::optional<Watchdog::Scope> first(watchdog.enter("a", "g", 1)), second(watchdog.enter("b", "g", 1));
    std::thread([moved = std::move(*first)] {}).join();
    first.reset();
    auto third = watchdog.enter("c", "g", 1);
    second.reset();
  }
  EXPECT_EQ(report.calls, 0);
}

TEST(Watchdog, EndsAtOnceAndNeedsADeadline) {
  auto begin = Clock::now();
  {
    Watchdog watchdog(3600.0, 0, [](const std::string&) {});
  }
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - begin).count(), 0.4);
  EXPECT_THROW(Watchdog(0.0, 0, [](const std::string&) {}), RuntimeFailure);
}

TEST(Activity, StaysAsItWasWhenAnExceptionLeavesIt) {
  EXPECT_EQ(describe(activity()), "");
  {
    ActivityScope load("load");
    EXPECT_EQ(describe(activity()), "load");
    {
      ActivityScope decode("decode");
      activity().layer = 0;
      EXPECT_EQ(describe(activity()), "decode, layer 0");
    }
    EXPECT_EQ(describe(activity()), "load");
  }
  EXPECT_EQ(describe(activity()), "");
  try {
    ActivityScope prefill("prefill");
    activity().layer = 3;
    activity().step = "scoring";
    throw 1;
  } catch (int) {
  }
  EXPECT_EQ(describe(activity()), "prefill, layer 3, scoring");
  activity() = {};
}

}  // namespace
}  // namespace restkv
