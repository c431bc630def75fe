// The ranks that mpirun gave a test, and the grids they can form.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "dist/comm/device_grid.h"
#include "dist/comm/mpi_runtime.h"
#include "dist/comm/process_grid.h"

namespace restkv::testing {

/// One runtime per test program (MPI itself is initialised by tests/mpi_main.cc).
inline MpiRuntime& mpi_runtime() {
  static MpiRuntime runtime(nullptr, nullptr);
  return runtime;
}

inline ProcessGrid make_grid(int sequence, int tensor, double timeout_s = 120) {
  return ProcessGrid(mpi_runtime().world(timeout_s), sequence, tensor);
}

/// The same on the context's device (GPU ranks: NCCL groups, and control() for the hosts).
inline std::unique_ptr<ProcessGrid> make_grid_on(Context& ctx, int sequence, int tensor, double timeout_s = 120) {
  GridOptions options;
  options.sequence = sequence;
  options.tensor = tensor;
  options.timeout_s = timeout_s;
  return make_device_grid(mpi_runtime().world(timeout_s), ctx, options);
}

/// All (sequence, tensor) sizes whose product is the number of ranks.
inline std::vector<std::pair<int, int>> all_layouts() {
  std::vector<std::pair<int, int>> layouts;
  int n = mpi_runtime().size();
  for (int tensor = 1; tensor <= n; ++tensor)
    if (n % tensor == 0) layouts.emplace_back(n / tensor, tensor);
  return layouts;
}

}  // namespace restkv::testing
