// Deadlines for calls that end on the device, long after the host has enqueued them. Knows nothing of CUDA or NCCL.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "dist/base/activity.h"

namespace restkv {

/// Watches the calls in the queues (streams) of one device. Only the oldest open call of a queue has a deadline, from
/// the moment on when it was enqueued or the call before it ended, whichever is later: a host may run far ahead of its
/// device. On a missed deadline, and on an error that the device or the library reports by itself, one line goes to
/// standard error and the run is ended.
///
/// Two threads: one asks the device, which may block when the driver does; the other one looks at clocks only, so the
/// deadline holds even then.
class DeviceMonitor {
 public:
  static constexpr int kQueues = 2;

  struct Probe {
    std::function<void()> start;           ///< called first on the asking thread
    std::function<void*()> make_mark;      ///< called on the enqueuing thread
    std::function<void(void*)> drop_mark;  ///< of all marks, when the monitor ends
    /// Whether all that was enqueued before the mark has ended; must not wait. Throws for an error of the device.
    std::function<bool(void*)> ended;
    std::function<std::string()> error;  ///< an asynchronous error of the library; empty: none
  };
  /// As Watchdog::OnExpired: ends the run without waiting for the call.
  using OnExpired = std::function<void(const std::string& message)>;

  /// `timeout_s` > 0. `rank` is named in the message.
  DeviceMonitor(double timeout_s, int rank, Probe probe, OnExpired on_expired);
  ~DeviceMonitor();
  DeviceMonitor(const DeviceMonitor&) = delete;
  DeviceMonitor& operator=(const DeviceMonitor&) = delete;

  /// One call at a time, from one thread: begin(), then enqueued() with a mark taken from mark() and recorded behind
  /// the call, or leave() for a call that has ended by then or will never run (captured). `operation` is a literal;
  /// `number` counts the calls of the group.
  void begin(int queue, std::string_view operation, const std::string& group, int64_t bytes, int64_t number);
  void enqueued(int queue, void* mark);
  void leave(int queue);

  /// A mark that nothing waits for any more.
  void* mark();

 private:
  using Clock = std::chrono::steady_clock;
  struct Call {
    std::string_view operation;
    std::string group;
    int64_t bytes;
    int64_t number;
    Activity activity;
    Clock::time_point begin;
    void* mark = nullptr;  // null: the host is still inside of the call
  };
  struct Queue {
    std::deque<Call> open;
    Clock::time_point progress{};  // when the call before the oldest one was seen to have ended
  };

  void ask_device();
  void retire_ended(Queue& queue);
  void look_at_clocks();
  std::string prefix(const Call* call) const;
  std::string describe(const Call& call) const;
  void fail(const std::string& message);
  const Call* oldest() const;

  const double timeout_s_;
  const int rank_;
  const Probe probe_;
  const OnExpired on_expired_;
  std::mutex mutex_;
  std::condition_variable ending_;
  bool end_ = false;
  bool failed_ = false;
  std::array<Queue, kQueues> queues_;
  std::vector<void*> spare_marks_;
  std::thread asking_, looking_;
};

}  // namespace restkv
