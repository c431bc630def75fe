// restkv run: every rank of an MPI world executes this.
#pragma once

#include <string>
#include <vector>

namespace restkv {

/// Runs all requests of a configuration and returns the process's exit code: 0, 2 for an error that the user can
/// mend, 1 for any other. An error is printed once, by one rank. Does not return when a rank fails amid collectives:
/// then all ranks end.
int run_command(const std::string& config_path, const std::vector<std::string>& overrides);

}  // namespace restkv
