// Whole prefills on CPU ranks that are threads of one process, against one rank: nothing of a transformer is shared.
#include "tests/dist/loopback_communicator.h"
#include "tests/model/prefill_ranks.h"

namespace restkv::testing {
namespace {

class PrefillThreads : public ::testing::TestWithParam<std::pair<int, int>> {};

TEST_P(PrefillThreads, LikeOneRank) {
  const auto [sequence, tensor] = GetParam();
  run_loopback(sequence * tensor, Device::cpu, [&, sequence = sequence, tensor = tensor](LoopbackRank& loopback) {
    PrefillRank rank{loopback.ctx,
                     [&](int s, int t) { return std::make_shared<ProcessGrid>(loopback_grid(loopback, s, t)); }};
    for (const char* policy : {"full", "evicting"}) expect_prefill_like_one_rank(rank, sequence, tensor, policy);
    expect_chunks_like_the_whole(rank, sequence, tensor);
  });
}

INSTANTIATE_TEST_SUITE_P(Layouts, PrefillThreads, ::testing::Values(std::pair{3, 1}, std::pair{2, 2}),
                         [](const auto& info) {
                           return fmt::format("sequence{}_tensor{}", info.param.first, info.param.second);
                         });

}  // namespace
}  // namespace restkv::testing
