#include "launch/run/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace restkv {

bool stderr_is_terminal() {
  if (::isatty(STDERR_FILENO)) return true;
  if (std::getenv("OMPI_COMM_WORLD_RANK") == nullptr) return false;
  std::string link = fmt::format("/proc/{}/fd/2", ::getppid());
  char target[256] = {};
  ssize_t length = ::readlink(link.c_str(), target, sizeof(target) - 1);
  std::string name(target, static_cast<size_t>(std::max<ssize_t>(0, length)));
  return name.starts_with("/dev/pts/") || name.starts_with("/dev/tty");
}

std::string progress_line(const std::string& label, int64_t done, int64_t total, double seconds) {
  constexpr int64_t kWidth = 30;
  double share = total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0.0;
  auto filled = static_cast<int64_t>(share * kWidth);
  return fmt::format("{:<8} [{}{}] {:3.0f}%  {:.1f} s", label, std::string(static_cast<size_t>(filled), '#'),
                     std::string(static_cast<size_t>(kWidth - filled), '.'), share * 100.0, seconds);
}

void ProgressBar::update(int64_t done, int64_t total) {
  if (!visible_) return;
  double now = watch_.seconds();
  if (done < total && now - last_ < 0.1) return;
  last_ = now;
  drawn_ = true;
  fmt::print(stderr, "\r{}", progress_line(label_, done, total, now));
  std::fflush(stderr);
}

void ProgressBar::finish() {
  if (!drawn_) return;
  drawn_ = false;
  fmt::print(stderr, "\r{:70}\r", "");
  std::fflush(stderr);
}

}  // namespace restkv
