// MPI for the life of the program: initialisation, the world group, the watchdog, and the end on failure.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "dist/comm/communicator.h"

namespace restkv {

class Watchdog;

class MpiRuntime {
 public:
  /// Initialises MPI when nobody has (argc and argv may be null). One per process. Throws InputError when the
  /// launcher started another number of processes than MPI sees (check_started_size).
  MpiRuntime(int* argc, char*** argv);
  /// Finalises MPI when this object initialised it, unless an exception is unwinding: then the other ranks may never
  /// come, and the program must end with abort() or a non-zero code.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Ranks on this host, and this rank among them.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }

  using Wrapper = std::function<std::unique_ptr<Communicator>(std::unique_ptr<Communicator>)>;
  /// What world() hands out from now on is wrapped in it: for tests, whose ranks fail on purpose.
  void wrap_world(Wrapper wrapper) { wrapper_ = std::move(wrapper); }
  /// GPU ranks' world is wrapped in the same (GridOptions::wrap). Empty: in nothing.
  const Wrapper& wrapper() const { return wrapper_; }

  /// The group of all ranks. Every collective of it and of its sub-groups has `timeout_s` seconds (0: no deadline).
  /// With `check_calls` the ranks compare their calls first (checked_communicator.h). Collective.
  std::unique_ptr<Communicator> world(double timeout_s, bool check_calls = false);

  /// Ends when all ranks of the run have called it, whatever groups they work in. A rank that was left out of the work
  /// since the last time waits as long as that takes, asleep (a blocking MPI call would spin on a core that a working
  /// rank needs): the working ranks' own calls have deadlines, and they end all ranks. A working rank has `timeout_s`
  /// seconds (0: no deadline). Collective over all ranks.
  void meet(bool worked, double timeout_s);

  /// Prints "rank R, what it is doing: text" once to standard error and ends all ranks with `exit_code` (0 becomes 1).
  /// Does not return. Rank 0 goes first: of an error that all ranks find alike (a bad configuration) the user sees one
  /// line.
  [[noreturn]] void abort(const std::string& text, int exit_code);

  /// Ends all ranks with `exit_code`, from any thread, whatever the other threads wait for. Prints nothing.
  [[noreturn]] static void end_all_ranks(int exit_code);

 private:
  bool initialised_here_ = false;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  Wrapper wrapper_;
  std::shared_ptr<Watchdog> watchdog_;  // of the last world() with a deadline
};

/// Throws InputError when the launcher's own variables say that it started another number of processes than
/// `mpi_size`: each would take itself for the only rank. `variable` gives the value of an environment variable, or
/// null.
void check_started_size(int mpi_size, const std::function<const char*(const char*)>& variable);

}  // namespace restkv
