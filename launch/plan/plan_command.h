// restkv plan: what a run would need, without loading weights and without its ranks.
#pragma once

#include <string>
#include <vector>

namespace restkv {

/// Prints the plan of a configuration to standard output. Throws InputError as a run would, and when the run does not
/// fit into this host's memory with all its ranks on it.
void plan_command(const std::string& config_path, const std::vector<std::string>& overrides);

}  // namespace restkv
