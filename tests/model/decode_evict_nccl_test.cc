// Eviction while decoding on as many GPUs as mpirun started ranks, in the decode layout tensor, inside graphs, against
// one GPU. Skips where there are fewer GPUs.
#include "dist/comm/device_grid.h"
#include "tests/model/decode_evict_ranks.h"

namespace restkv::testing {
namespace {

TEST(DecodeEvictNccl, KeepsWhatOneRankKeeps) {
  constexpr double kTimeoutS = 120.0;
  int missing = mpi_runtime().local_size() - GpuRuntime::count();
  mpi_runtime().world(kTimeoutS)->all_reduce(&missing, 1, DType::i32, ReduceOp::max);
  if (missing > 0) GTEST_SKIP() << "fewer GPUs than the " << mpi_runtime().local_size() << " ranks of this host";
  Context ctx({Device::gpu, 1, mpi_runtime().local_rank()});
  const ModelConfig config = small_config(8, 4, 64);
  for (auto [sequence, tensor] : all_layouts()) {
    if (!layout_allowed(config, tensor)) continue;
    GridOptions options;
    options.sequence = sequence;
    options.tensor = tensor;
    options.timeout_s = kTimeoutS;
    auto grid = make_device_grid(mpi_runtime().world(kTimeoutS), ctx, options);
    expect_eviction_of_one_rank(ctx, *grid, config, true);
  }
}

}  // namespace
}  // namespace restkv::testing
