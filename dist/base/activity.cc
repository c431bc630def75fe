#include "dist/base/activity.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <exception>

namespace restkv {
namespace {

std::atomic<const Activity*> reported{nullptr};
int reported_rank = 0;

/// A line put together without the allocator, which a signal handler must not call.
class SignalLine {
 public:
  void add(const char* text) {
    for (; *text != 0 && size_ < sizeof(text_) - 1; ++text) text_[size_++] = *text;
  }
  void add(int64_t number) {
    char digits[24];
    int n = 0;
    do digits[n++] = static_cast<char>('0' + number % 10);
    while ((number /= 10) > 0 && n < 23);
    while (n > 0 && size_ < sizeof(text_) - 1) text_[size_++] = digits[--n];
  }
  void write() {
    text_[size_++] = '\n';
    [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, text_, size_);
  }

 private:
  char text_[400];
  size_t size_ = 0;
};

void on_termination(int signal) {
  const Activity* doing = reported.load();
  if (doing != nullptr && doing->stage != nullptr) {
    SignalLine line;
    line.add("rank ");
    line.add(reported_rank);
    line.add(", ");
    line.add(doing->stage);
    if (doing->layer >= 0) {
      line.add(", layer ");
      line.add(doing->layer);
    }
    for (const char* part : {doing->step, doing->call}) {
      if (part == nullptr) continue;
      line.add(", ");
      line.add(part);
    }
    if (doing->call != nullptr) {
      line.add(" of ");
      line.add(doing->bytes);
      line.add(" bytes");
    }
    line.add(": ended by the launcher (another rank has ended, or the run was stopped)");
    line.write();
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

Activity& activity() {
  thread_local Activity own;
  return own;
}

std::string describe(const Activity& activity) {
  if (activity.stage == nullptr) return "";
  std::string text = activity.stage;
  if (activity.layer >= 0) text += fmt::format(", layer {}", activity.layer);
  if (activity.step != nullptr) text += fmt::format(", {}", activity.step);
  return text;
}

void report_termination(int rank) {
  reported_rank = rank;
  if (reported.exchange(&activity()) == nullptr) std::signal(SIGTERM, on_termination);
}

ActivityScope::ActivityScope(const char* stage) : before_(activity()), exceptions_(std::uncaught_exceptions()) {
  activity() = {.stage = stage};
}

ActivityScope::~ActivityScope() {
  if (std::uncaught_exceptions() == exceptions_) activity() = before_;
}

}  // namespace restkv
