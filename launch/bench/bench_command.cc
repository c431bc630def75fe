#include "launch/bench/bench_command.h"

#include <algorithm>
#include <cstdio>

#include "launch/bench/bench.h"
#include "launch/run/on_ranks.h"
#include "launch/run/together.h"

namespace restkv {
namespace {

std::vector<std::string> presets_of(MpiRuntime& mpi, const std::string& path,
                                    const std::vector<std::string>& overrides) {
  constexpr double kStartTimeout = 120.0;
  std::vector<std::string> presets;
  auto world = mpi.world(kStartTimeout);
  run_together(*world, [&] { presets = load_run_config(path, overrides, ConfigUse::bench).bench.presets; });
  return presets;
}

}  // namespace

int bench_command(const std::string& config_path, const std::vector<std::string>& overrides) {
  return run_on_ranks([&](MpiRuntime& mpi) {
    std::string tables;
    std::vector<int> codes;
    for (const std::string& preset : presets_of(mpi, config_path, overrides)) {
      std::vector<std::string> sets = overrides;
      sets.push_back("model.preset=" + preset);
      Bench bench(mpi, config_path, sets);
      codes.push_back(bench.run());
      tables += bench.table();
    }
    if (codes.empty()) {
      Bench bench(mpi, config_path, overrides);
      return bench.run();
    }
    // Every sweep has printed its own when it ended; here they stand together.
    if (mpi.rank() == 0 && codes.size() > 1) std::fputs(("\n" + tables).c_str(), stdout);
    std::fflush(stdout);
    if (std::count(codes.begin(), codes.end(), 1) > 0) return 1;
    return *std::min_element(codes.begin(), codes.end());  // 2 where every point of every sweep was refused
  });
}

}  // namespace restkv
