// How many CPU threads a rank gets, and how much memory its host has.
#pragma once

#include <cstdint>

#include "dist/comm/communicator.h"

namespace restkv {

struct ThreadShare {
  int threads = 1;        ///< for this rank
  int host_cores = 1;     ///< cores of this host that any of its ranks may use
  int host_ranks = 1;     ///< ranks on this host
  bool wasteful = false;  ///< the launcher bound the ranks of this host to fewer cores than there are
};

/// Ranks of one host that may run on the same cores share them evenly; ranks that the launcher bound to cores of
/// their own use all of theirs. Collective over `world`.
ThreadShare share_threads(Communicator& world);

/// Bytes that this host can still give to processes: the kernel's estimate, or what is left of this process's memory
/// cgroup when that is less. 0 when unknown.
int64_t available_memory();

/// Largest resident size of this process so far, in bytes.
int64_t peak_resident_bytes();

}  // namespace restkv
