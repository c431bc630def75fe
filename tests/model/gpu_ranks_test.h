// The fixture of whole models on as many GPUs as mpirun started ranks: a context and a grid of every layout. Tests are
// skipped where there are fewer GPUs.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <utility>

#include "dist/comm/device_grid.h"
#include "tests/model/run_model.h"

namespace restkv::testing {

class GpuRanksTest : public ::testing::Test {
 protected:
  static constexpr double kTimeoutS = 120.0;

  static void SetUpTestSuite() {
    int missing = mpi_runtime().local_size() - GpuRuntime::count();
    mpi_runtime().world(kTimeoutS)->all_reduce(&missing, 1, DType::i32, ReduceOp::max);
    if (missing > 0) return;
    ctx = new Context({Device::gpu, 1, mpi_runtime().local_rank()});
    for (auto [sequence, tensor] : all_layouts()) {
      GridOptions options;
      options.sequence = sequence;
      options.tensor = tensor;
      options.timeout_s = kTimeoutS;
      grids[{sequence, tensor}] = make_device_grid(mpi_runtime().world(kTimeoutS), *ctx, options);
    }
  }
  static void TearDownTestSuite() {  // before MPI ends
    grids.clear();
    delete ctx;
    ctx = nullptr;
  }
  void SetUp() override {
    if (ctx == nullptr) GTEST_SKIP() << "fewer GPUs than the " << mpi_runtime().local_size() << " ranks of this host";
  }

  static inline Context* ctx = nullptr;
  static inline std::map<std::pair<int, int>, std::shared_ptr<ProcessGrid>> grids;
};

}  // namespace restkv::testing
