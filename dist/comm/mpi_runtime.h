// MPI for the life of the program: initialisation, the world group, the watchdog, and the end on failure.
#pragma once

#include <memory>
#include <string>

#include "dist/comm/communicator.h"

namespace restkv {

class MpiRuntime {
 public:
  /// Initialises MPI when nobody has. One per process.
  MpiRuntime(int* argc, char*** argv);
  /// Finalises MPI when this object initialised it.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Ranks on this host, and this rank among them.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }

  /// The group of all ranks. Every collective of it and of its sub-groups has `timeout_s` seconds (0: no deadline).
  std::unique_ptr<Communicator> world(double timeout_s);

  /// Prints "rank R: text" once to standard error and ends all ranks with `exit_code`. Does not return.
  [[noreturn]] void abort(const std::string& text, int exit_code);

 private:
  bool initialised_here_ = false;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
};

}  // namespace restkv
