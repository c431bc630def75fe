// A deadline for calls that block on other ranks. Knows nothing of MPI or NCCL.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "dist/base/activity.h"

namespace restkv {

class Watchdog {
  struct Entry {
    std::string_view operation;
    std::string group;
    int64_t bytes;
    Activity activity;  // of the thread that called enter()
    std::chrono::steady_clock::time_point begin;
  };

 public:
  /// Ends the whole run; called once, from the watchdog's thread, after the message is on standard error. The blocked
  /// call is still blocked then, so it must not wait for it. When it returns (tests), no further call is reported.
  using OnExpired = std::function<void(const std::string& message)>;

  /// `timeout_s` > 0 is the deadline of every scope. `rank` is named in the message.
  Watchdog(double timeout_s, int rank, OnExpired on_expired);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// The time in which one call has to end: from enter() to the destruction of this object. May be moved, and ended
  /// on another thread (a call that completes asynchronously keeps its scope until it has completed).
  class Scope {
   public:
    Scope() = default;  ///< watches nothing
    Scope(Scope&& other) noexcept : watchdog_(other.watchdog_), entry_(other.entry_) { other.watchdog_ = nullptr; }
    Scope& operator=(Scope&&) = delete;
    ~Scope() {
      if (watchdog_ != nullptr) watchdog_->leave(entry_);
    }

   private:
    friend class Watchdog;
    Scope(Watchdog* watchdog, std::list<Entry>::iterator entry) : watchdog_(watchdog), entry_(entry) {}
    Watchdog* watchdog_ = nullptr;
    std::list<Entry>::iterator entry_;
  };

  /// Any number of scopes may be open, from any threads. `operation` must be a literal. The message also says what the
  /// calling thread is doing (dist/base/activity.h).
  [[nodiscard]] Scope enter(std::string_view operation, const std::string& group, int64_t bytes);

  double timeout_s() const { return timeout_s_; }

 private:
  void leave(std::list<Entry>::iterator entry);
  void watch();
  std::string describe(const Entry& entry) const;

  const double timeout_s_;
  const int rank_;
  const OnExpired on_expired_;
  std::mutex mutex_;
  std::condition_variable ending_;
  bool end_ = false;
  std::list<Entry> open_;   // in order of begin: the first expires first
  std::list<Entry> spare_;  // nodes to use again, so that a call does not allocate
  std::thread thread_;
};

/// Writes one line to standard error in one piece, so that lines of several ranks do not mix.
void print_line_to_stderr(const std::string& line);

}  // namespace restkv
