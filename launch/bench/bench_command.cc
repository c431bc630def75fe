#include "launch/bench/bench_command.h"

#include "launch/bench/bench.h"
#include "launch/run/on_ranks.h"

namespace restkv {

int bench_command(const std::string& config_path, const std::vector<std::string>& overrides) {
  return run_on_ranks([&](MpiRuntime& mpi) {
    Bench bench(mpi, config_path, overrides);
    return bench.run();
  });
}

}  // namespace restkv
