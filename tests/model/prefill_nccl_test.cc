// Whole prefills on as many GPUs as mpirun started ranks, on every layout of them, against one GPU. Skips where there
// are fewer GPUs.
#include <map>

#include "dist/comm/device_grid.h"
#include "tests/model/prefill_ranks.h"

namespace restkv::testing {
namespace {

constexpr double kTimeoutS = 120.0;

class PrefillNccl : public ::testing::Test {
 protected:
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
  static PrefillRank rank() {
    return {*ctx, [](int sequence, int tensor) { return grids.at({sequence, tensor}); }};
  }

  static inline Context* ctx = nullptr;
  static inline std::map<std::pair<int, int>, std::shared_ptr<ProcessGrid>> grids;
};

TEST_F(PrefillNccl, LogitsOfOneRank) {
  for (auto [sequence, tensor] : all_layouts()) {
    PrefillRank own = rank();
    expect_prefill_like_one_rank(own, sequence, tensor, "full");
  }
}

TEST_F(PrefillNccl, KeptSetsOfOneRank) {
  for (auto [sequence, tensor] : all_layouts()) {
    PrefillRank own = rank();
    expect_prefill_like_one_rank(own, sequence, tensor, "evicting");
  }
}

TEST_F(PrefillNccl, ChunksLikeTheWhole) {
  for (auto [sequence, tensor] : all_layouts()) {
    PrefillRank own = rank();
    expect_chunks_like_the_whole(own, sequence, tensor);
  }
}

TEST_F(PrefillNccl, GoldenLogits) {
  for (auto [sequence, tensor] : all_layouts())
    for (DType sums : {DType::bf16, DType::f32})
      for (ContextPlan plan : {ContextPlan::allgather, ContextPlan::ring}) {
        if (plan == ContextPlan::ring && sequence == 1) continue;
        PrefillRank own = rank();
        expect_golden_logits(own, sequence, tensor, plan, sums, mpi_runtime().rank() == 0);
      }
}

}  // namespace
}  // namespace restkv::testing
