// A progress bar on a terminal; nothing anywhere else.
#pragma once

#include <cstdint>
#include <string>

#include "dist/base/stopwatch.h"

namespace restkv {

/// Whether standard error ends at a terminal. mpirun puts a pipe between; then its own standard error counts.
bool stderr_is_terminal();

class ProgressBar {
 public:
  /// `visible`: false makes every call do nothing.
  ProgressBar(bool visible, std::string label) : visible_(visible), label_(std::move(label)) {}
  ~ProgressBar() { finish(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Redraws at most ten times a second, and when done == total.
  void update(int64_t done, int64_t total);
  /// Clears the line.
  void finish();

 private:
  bool visible_;
  bool drawn_ = false;
  double last_ = -1.0;
  std::string label_;
  Stopwatch watch_;
};

/// "load     [##########..........] 50%  1.2 s"
std::string progress_line(const std::string& label, int64_t done, int64_t total, double seconds);

}  // namespace restkv
