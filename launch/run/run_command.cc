#include "launch/run/run_command.h"

#include "launch/run/on_ranks.h"
#include "launch/run/runner.h"

namespace restkv {

int run_command(const std::string& config_path, const std::vector<std::string>& overrides) {
  return run_on_ranks([&](MpiRuntime& mpi) {
    Runner runner(mpi, config_path, overrides);
    runner.run();
    return 0;
  });
}

}  // namespace restkv
