// The Communicator of CPU ranks, over MPI.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "dist/comm/communicator.h"
#include "dist/comm/watchdog.h"

namespace restkv {

struct MpiOptions {
  std::shared_ptr<Watchdog> watchdog;  ///< null: no deadline
  /// Elements that one MPI call may count (MPI counts in int); more are moved in pieces. Tests lower it.
  int64_t max_count = std::numeric_limits<int>::max();
};

/// The group of all ranks, in a communicator of its own. Collective over MPI_COMM_WORLD; MPI must be initialised and
/// must stay so as long as the group and its sub-groups live.
///
/// all_reduce adds the ranks' values in rank order, element by element: the result depends neither on `count` nor on
/// where an element lies in the buffer.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options);

}  // namespace restkv
