#include "dist/comm/watchdog.h"

#include <unistd.h>

#include <algorithm>

#include "dist/base/error.h"

namespace restkv {

void print_line_to_stderr(const std::string& line) {
  std::string text = line + "\n";
  for (size_t done = 0; done < text.size();) {
    ssize_t n = ::write(STDERR_FILENO, text.data() + done, text.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

Watchdog::Watchdog(double timeout_s, int rank, OnExpired on_expired)
    : timeout_s_(timeout_s), rank_(rank), on_expired_(std::move(on_expired)) {
  RESTKV_CHECK(timeout_s > 0.0, "a watchdog with a deadline of {} s", timeout_s);
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    end_ = true;
  }
  ending_.notify_all();
  thread_.join();
}

Watchdog::Scope Watchdog::enter(std::string_view operation, const std::string& group, int64_t bytes) {
  auto now = std::chrono::steady_clock::now();
  std::lock_guard lock(mutex_);
  if (spare_.empty()) spare_.emplace_back();
  auto entry = spare_.begin();
  entry->operation = operation;
  entry->group = group;
  entry->bytes = bytes;
  entry->activity = activity();
  activity().call = operation.data();
  activity().bytes = bytes;
  entry->begin = now;
  open_.splice(open_.end(), spare_, entry);
  return Scope(this, entry);
}

void Watchdog::leave(std::list<Entry>::iterator entry) {
  std::lock_guard lock(mutex_);
  spare_.splice(spare_.begin(), open_, entry);
}

std::string Watchdog::describe(const Entry& entry) const {
  const std::string doing = restkv::describe(entry.activity);
  return fmt::format(
      "rank {}{}{}: {} of {} bytes in group {} did not end within {} s: another rank of the group has failed, hangs, "
      "or "
      "makes another call; ending all ranks",
      rank_, doing.empty() ? "" : ", ", doing, entry.operation, entry.bytes, entry.group, timeout_s_);
}

void Watchdog::watch() {
  // Polling keeps enter() and leave() free of wake-ups; the price is a report up to 0.5 s late.
  const auto deadline = std::chrono::duration<double>(timeout_s_);
  const auto interval = std::chrono::duration<double>(std::clamp(timeout_s_ / 20.0, 0.001, 0.5));
  std::unique_lock lock(mutex_);
  while (!ending_.wait_for(lock, interval, [this] { return end_; })) {
    if (open_.empty() || std::chrono::steady_clock::now() - open_.front().begin < deadline) continue;
    std::string message = describe(open_.front());
    lock.unlock();
    print_line_to_stderr(message);
    on_expired_(message);
    return;
  }
}

}  // namespace restkv
