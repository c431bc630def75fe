#include "dist/comm/device_monitor.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "dist/base/error.h"
#include "dist/comm/watchdog.h"

namespace restkv {
namespace {

// A peer that ends breaks its connections too. The launcher ends this rank within this time then, and the message that
// the peer left is the one that tells the cause.
constexpr std::chrono::milliseconds kErrorGrace{1000};

std::chrono::duration<double> interval(double timeout_s, double at_most_s) {
  return std::chrono::duration<double>(std::clamp(timeout_s / 20.0, 0.001, at_most_s));
}

}  // namespace

DeviceMonitor::DeviceMonitor(double timeout_s, int rank, Probe probe, OnExpired on_expired)
    : timeout_s_(timeout_s), rank_(rank), probe_(std::move(probe)), on_expired_(std::move(on_expired)) {
  RESTKV_CHECK(timeout_s > 0.0, "a device monitor with a deadline of {} s", timeout_s);
  asking_ = std::thread([this] { ask_device(); });
  looking_ = std::thread([this] { look_at_clocks(); });
}

DeviceMonitor::~DeviceMonitor() {
  {
    std::lock_guard lock(mutex_);
    end_ = true;
  }
  ending_.notify_all();
  asking_.join();
  looking_.join();
  for (Queue& queue : queues_)
    for (Call& call : queue.open)
      if (call.mark != nullptr) spare_marks_.push_back(call.mark);
  for (void* mark : spare_marks_) probe_.drop_mark(mark);
}

void DeviceMonitor::begin(int queue, std::string_view operation, const std::string& group, int64_t bytes,
                          int64_t number) {
  Call call{operation, group, bytes, number, activity(), Clock::now()};
  std::lock_guard lock(mutex_);
  queues_[queue].open.push_back(std::move(call));
}

void DeviceMonitor::enqueued(int queue, void* mark) {
  std::lock_guard lock(mutex_);
  queues_[queue].open.back().mark = mark;
}

void DeviceMonitor::leave(int queue) {
  std::lock_guard lock(mutex_);
  queues_[queue].open.pop_back();
}

void* DeviceMonitor::mark() {
  {
    std::lock_guard lock(mutex_);
    if (!spare_marks_.empty()) {
      void* mark = spare_marks_.back();
      spare_marks_.pop_back();
      return mark;
    }
  }
  return probe_.make_mark();
}

// The lock is never held while the device is asked: the driver may make that wait for the enqueuing thread.
void DeviceMonitor::retire_ended(Queue& queue) {
  while (true) {
    void* mark = nullptr;
    {
      std::lock_guard lock(mutex_);
      if (queue.open.empty() || queue.open.front().mark == nullptr) return;
      mark = queue.open.front().mark;
    }
    if (!probe_.ended(mark)) return;
    std::lock_guard lock(mutex_);
    queue.open.pop_front();
    queue.progress = Clock::now();
    spare_marks_.push_back(mark);
  }
}

void DeviceMonitor::ask_device() {
  std::string error;
  try {
    probe_.start();
    std::unique_lock lock(mutex_);
    while (error.empty() && !ending_.wait_for(lock, interval(timeout_s_, 0.02), [this] { return end_; })) {
      lock.unlock();
      for (Queue& queue : queues_) retire_ended(queue);
      error = probe_.error();
      lock.lock();
    }
  } catch (const std::exception& e) {
    error = e.what();
  }
  std::unique_lock lock(mutex_);
  if (error.empty() || ending_.wait_for(lock, kErrorGrace, [this] { return end_; })) return;
  const std::string message = prefix(oldest()) + error + "; ending all ranks";
  lock.unlock();
  fail(message);
}

const DeviceMonitor::Call* DeviceMonitor::oldest() const {
  for (const Queue& queue : queues_)
    if (!queue.open.empty()) return &queue.open.front();
  return nullptr;
}

std::string DeviceMonitor::prefix(const Call* call) const {
  const std::string doing = restkv::describe(call != nullptr ? call->activity : Activity{});
  return fmt::format("rank {}{}{}: ", rank_, doing.empty() ? "" : ", ", doing);
}

std::string DeviceMonitor::describe(const Call& call) const {
  return prefix(&call) +
         fmt::format(
             "{} of {} bytes in group {} did not end within {} s (call {} of the group, {}): another rank of the group "
             "has failed, hangs, or makes another call; ending all ranks",
             call.operation, call.bytes, call.group, timeout_s_, call.number,
             call.mark != nullptr ? "on the device" : "on the host");
}

void DeviceMonitor::look_at_clocks() {
  const auto deadline = std::chrono::duration<double>(timeout_s_);
  std::unique_lock lock(mutex_);
  while (!ending_.wait_for(lock, interval(timeout_s_, 0.5), [this] { return end_ || failed_; })) {
    for (const Queue& queue : queues_) {
      if (queue.open.empty()) continue;
      const Call& call = queue.open.front();
      if (Clock::now() - std::max(call.begin, queue.progress) < deadline) continue;
      const std::string message = describe(call);
      lock.unlock();
      return fail(message);
    }
  }
}

void DeviceMonitor::fail(const std::string& message) {
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(failed_, true)) return;
  }
  print_line_to_stderr(message);
  on_expired_(message);
}

}  // namespace restkv
