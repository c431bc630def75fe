// restkv bench: every rank of an MPI world executes this.
#pragma once

#include <string>
#include <vector>

namespace restkv {

/// Measures all points of a configuration's sweep and returns the process's exit code: 0; 1 when a point failed; 2 for
/// an error that the user can mend, and when every point was refused. Otherwise as run_command().
int bench_command(const std::string& config_path, const std::vector<std::string>& overrides);

}  // namespace restkv
