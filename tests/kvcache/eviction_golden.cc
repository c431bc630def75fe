// The golden vectors on every layout of the ranks at hand. RESTKV_GOLDEN_DIR names another directory to read.
#include <cstdlib>
#include <iostream>

#include "tests/kvcache/golden_case.h"
#include "tests/mpi_world.h"

namespace restkv::testing {
namespace {

TEST(EvictionGolden, AgreesWithThePublishedCode) {
  const char* given = std::getenv("RESTKV_GOLDEN_DIR");
  const std::filesystem::path directory = given != nullptr ? given : RESTKV_TEST_DATA "/eviction";
  const auto paths = golden_paths(directory);
  ASSERT_GE(paths.size(), given != nullptr ? 1u : 12u) << directory;
  int layouts_run = 0;
  for (auto [sequence_size, tensor_size] : all_layouts()) {
    ProcessGrid grid = make_grid(sequence_size, tensor_size);
    for (const auto& path : paths) {
      Golden golden = read_case(path);
      if (golden.input.Hq % tensor_size != 0) continue;
      ++layouts_run;
      expect_golden(golden, evict_case(golden.input, grid.sequence(), grid.tensor()), grid.sequence());
    }
  }
  EXPECT_GE(layouts_run, static_cast<int>(paths.size()));
  if (mpi_runtime().rank() == 0) std::cout << paths.size() << " files, " << layouts_run << " files x layouts\n";
}

}  // namespace
}  // namespace restkv::testing
