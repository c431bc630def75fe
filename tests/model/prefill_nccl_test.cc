// Whole prefills on as many GPUs as mpirun started ranks, on every layout of them, against one GPU. Skips where there
// are fewer GPUs.
#include "tests/model/gpu_ranks_test.h"
#include "tests/model/prefill_ranks.h"

namespace restkv::testing {
namespace {

class PrefillNccl : public GpuRanksTest {
 protected:
  static PrefillRank rank() {
    return {*ctx, [](int sequence, int tensor) { return grids.at({sequence, tensor}); }};
  }
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
