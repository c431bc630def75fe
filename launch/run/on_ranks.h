// The frame of every command that runs on the ranks of an MPI world.
#pragma once

#include <functional>

#include "dist/comm/mpi_runtime.h"

namespace restkv {

/// Runs `body` on this rank and returns the process's exit code: what `body` returned, 2 for an error that the user can
/// mend, 1 for any other. An error is printed once, by one rank. Does not return when a rank fails amid collectives:
/// then all ranks end.
int run_on_ranks(const std::function<int(MpiRuntime&)>& body);

}  // namespace restkv
