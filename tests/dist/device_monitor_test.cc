// The monitor on a device of the test's own: marks end when the test says so.
#include "dist/comm/device_monitor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "dist/base/error.h"

namespace restkv {
namespace {

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

struct FakeDevice {
  struct Mark {
    std::atomic<bool> ended{false};
  };
  std::atomic<int> made{0}, dropped{0}, reports{0};
  std::atomic<bool> broken{false}, blocked{false}, started{false};
  std::atomic<bool> library_failed{false};
  std::string message;

  DeviceMonitor::Probe probe() {
    DeviceMonitor::Probe probe;
    probe.start = [this] { started = true; };
    probe.make_mark = [this] {
      ++made;
      return static_cast<void*>(new Mark);
    };
    probe.drop_mark = [this](void* mark) {
      ++dropped;
      delete static_cast<Mark*>(mark);
    };
    probe.ended = [this](void* mark) {
      while (blocked) sleep_ms(1);
      if (broken) fail_runtime("an illegal address");
      return static_cast<Mark*>(mark)->ended.load();
    };
    probe.error = [this] { return library_failed ? std::string("NCCL failed in group world: remote error") : ""; };
    return probe;
  }
  DeviceMonitor::OnExpired on_expired() {
    return [this](const std::string& text) {
      message = text;
      ++reports;
    };
  }
  bool reported_within(int ms) {
    for (int i = 0; i < ms && reports == 0; ++i) sleep_ms(1);
    return reports > 0;
  }
};

FakeDevice::Mark* enqueue(DeviceMonitor& monitor, int queue, int64_t number, const char* operation = "all_gather") {
  monitor.begin(queue, operation, "sequence", 4096, number);
  auto* mark = static_cast<FakeDevice::Mark*>(monitor.mark());
  mark->ended = false;
  monitor.enqueued(queue, mark);
  return mark;
}

class DeviceMonitorTest : public ::testing::Test {
 protected:
  void SetUp() override { ::testing::internal::CaptureStderr(); }
  void TearDown() override { ::testing::internal::GetCapturedStderr(); }
  FakeDevice device_;
};

TEST_F(DeviceMonitorTest, CallsThatEndAreForgottenAndTheirMarksUsedAgain) {
  {
    DeviceMonitor monitor(0.5, 0, device_.probe(), device_.on_expired());
    for (int i = 0; i < 30; ++i) {
      enqueue(monitor, i % 2, i)->ended = true;
      sleep_ms(25);
    }
    EXPECT_EQ(device_.reports, 0);
    EXPECT_TRUE(device_.started);
    EXPECT_LT(device_.made, 15) << "marks of ended calls are taken again";
  }
  EXPECT_EQ(device_.made, device_.dropped);
}

TEST_F(DeviceMonitorTest, ACallThatDoesNotEndIsReportedOnceWithItsNames) {
  DeviceMonitor monitor(0.1, 3, device_.probe(), device_.on_expired());
  enqueue(monitor, 0, 16)->ended = true;
  {
    ActivityScope stage("prefill");
    activity().layer = 12;
    activity().step = "exchange";
    enqueue(monitor, 0, 17);
  }
  enqueue(monitor, 0, 18);
  ASSERT_TRUE(device_.reported_within(5000));
  EXPECT_EQ(
      device_.message.find("rank 3, prefill, layer 12, exchange: all_gather of 4096 bytes in group sequence did not "
                           "end within 0.1 s (call 17 of the group, on the device)"),
      0u)
      << device_.message;
  sleep_ms(300);
  EXPECT_EQ(device_.reports, 1);
}

// Calls enqueued far ahead: each has its own time from when the one before it ended.
TEST_F(DeviceMonitorTest, TheDeadlineBeginsAnewWithEveryCallThatEnds) {
  DeviceMonitor monitor(0.3, 0, device_.probe(), device_.on_expired());
  FakeDevice::Mark* marks[5];
  for (int i = 0; i < 5; ++i) marks[i] = enqueue(monitor, 0, i);
  for (FakeDevice::Mark* mark : marks) {
    sleep_ms(150);
    mark->ended = true;
  }
  sleep_ms(100);
  EXPECT_EQ(device_.reports, 0);
}

TEST_F(DeviceMonitorTest, EachQueueHasItsOwnDeadline) {
  DeviceMonitor monitor(0.2, 0, device_.probe(), device_.on_expired());
  enqueue(monitor, 1, 5, "broadcast");
  for (int i = 0; i < 100 && device_.reports == 0; ++i) {
    enqueue(monitor, 0, i)->ended = true;
    sleep_ms(10);
  }
  ASSERT_TRUE(device_.reported_within(5000));
  EXPECT_NE(device_.message.find("broadcast of 4096 bytes"), std::string::npos) << device_.message;
}

TEST_F(DeviceMonitorTest, AHostThatHangsWithinACallIsReported) {
  DeviceMonitor monitor(0.1, 1, device_.probe(), device_.on_expired());
  monitor.begin(0, "split", "world", 0, 2);
  ASSERT_TRUE(device_.reported_within(5000));
  EXPECT_NE(device_.message.find("split of 0 bytes in group world"), std::string::npos) << device_.message;
  EXPECT_NE(device_.message.find("on the host"), std::string::npos) << device_.message;
  monitor.leave(0);
}

TEST_F(DeviceMonitorTest, TheDeadlineHoldsWhileTheDriverBlocks) {
  DeviceMonitor monitor(0.1, 0, device_.probe(), device_.on_expired());
  device_.blocked = true;
  enqueue(monitor, 0, 1);
  EXPECT_TRUE(device_.reported_within(5000));
  device_.blocked = false;
}

TEST_F(DeviceMonitorTest, ErrorsOfLibraryAndDeviceEndTheRun) {
  for (auto* which : {&device_.library_failed, &device_.broken}) {
    device_.reports = 0;
    DeviceMonitor monitor(60.0, 2, device_.probe(), device_.on_expired());
    enqueue(monitor, 0, 1);
    *which = true;
    ASSERT_TRUE(device_.reported_within(5000));
    EXPECT_EQ(device_.message.find("rank 2: "), 0u) << device_.message;
    EXPECT_NE(device_.message.find(which == &device_.broken ? "an illegal address" : "remote error"), std::string::npos)
        << device_.message;
    *which = false;
  }
}

TEST_F(DeviceMonitorTest, EndsAtOnceAndNeedsADeadline) {
  auto begin = std::chrono::steady_clock::now();
  {
    DeviceMonitor monitor(3600.0, 0, device_.probe(), device_.on_expired());
    enqueue(monitor, 0, 1);
  }
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 0.4);
  EXPECT_EQ(device_.made, device_.dropped);
  EXPECT_THROW(DeviceMonitor(0.0, 0, device_.probe(), device_.on_expired()), RuntimeFailure);
}

}  // namespace
}  // namespace restkv
