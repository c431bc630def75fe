// Whole prefills on ranks that are threads and share one GPU, against one rank on it. Exchanges run on streams of their
// own beside the computation, as on several GPUs. Skips when there is no GPU.
#include "tests/dist/loopback_communicator.h"
#include "tests/model/prefill_ranks.h"

namespace restkv::testing {
namespace {

struct Layout {
  int sequence, tensor;
};

class PrefillLoopback : public ::testing::TestWithParam<Layout> {
 protected:
  void SetUp() override {
    if (GpuRuntime::count() == 0) GTEST_SKIP() << "no GPU";
  }
  void on_ranks(const std::function<void(PrefillRank&)>& body) {
    run_loopback(
        GetParam().sequence * GetParam().tensor, Device::gpu,
        [&](LoopbackRank& loopback) {
          PrefillRank rank{loopback.ctx, [&](int sequence, int tensor) {
                             return std::make_shared<ProcessGrid>(loopback_grid(loopback, sequence, tensor));
                           }};
          body(rank);
        },
        400.0);
  }
};

TEST_P(PrefillLoopback, LogitsOfOneRank) {
  on_ranks(
      [](PrefillRank& rank) { expect_prefill_like_one_rank(rank, GetParam().sequence, GetParam().tensor, "full"); });
}

TEST_P(PrefillLoopback, KeptSetsOfOneRank) {
  on_ranks([](PrefillRank& rank) {
    expect_prefill_like_one_rank(rank, GetParam().sequence, GetParam().tensor, "evicting");
  });
}

TEST_P(PrefillLoopback, ChunksLikeTheWhole) {
  on_ranks([](PrefillRank& rank) { expect_chunks_like_the_whole(rank, GetParam().sequence, GetParam().tensor); });
}

TEST_P(PrefillLoopback, GoldenLogits) {
  on_ranks([](PrefillRank& rank) {
    const auto [sequence, tensor] = GetParam();
    const bool speaks = rank.make_grid(sequence, tensor)->is_root();
    expect_golden_logits(rank, sequence, tensor, ContextPlan::allgather, DType::bf16, speaks);
    if (tensor > 1) expect_golden_logits(rank, sequence, tensor, ContextPlan::allgather, DType::f32, speaks);
    if (sequence > 1) expect_golden_logits(rank, sequence, tensor, ContextPlan::ring, DType::bf16, speaks);
  });
}

INSTANTIATE_TEST_SUITE_P(Layouts, PrefillLoopback,
                         ::testing::Values(Layout{1, 1}, Layout{2, 1}, Layout{1, 2}, Layout{2, 2}, Layout{3, 1},
                                           Layout{1, 4}),
                         [](const auto& info) {
                           return fmt::format("sequence{}_tensor{}", info.param.sequence, info.param.tensor);
                         });

}  // namespace
}  // namespace restkv::testing
