// Decoding on n ranks that are threads and share one GPU: all exchanges but their capture. Skips without a GPU.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/dist/loopback_communicator.h"
#include "tests/gpu_test.h"
#include "tests/model/decode_ranks.h"

namespace restkv {
namespace {

// A kernel that waits for another rank must not keep that rank's thread from loading its kernels.
const bool kEager = setenv("CUDA_MODULE_LOADING", "EAGER", 1) == 0;

struct LoopbackCase {
  int sequence, tensor;
  DecodeMode mode;
  int64_t Hq, Hkv, d;
  Granularity granularity;
};

class DecodeLoopback : public testing::GpuTest, public ::testing::WithParamInterface<LoopbackCase> {};

TEST_P(DecodeLoopback, GivesWhatOneRankGives) {
  ASSERT_TRUE(kEager);
  const LoopbackCase c = GetParam();
  gpu.reset();
  testing::run_loopback(c.sequence * c.tensor, Device::gpu, [&](testing::LoopbackRank& loopback) {
    ProcessGrid grid = testing::loopback_grid(loopback, c.sequence, c.tensor);
    testing::DecodeRank rank{loopback.ctx, *loopback.control, {}, false};
    testing::WholeModel whole(loopback.ctx, testing::ranks_config(c.Hq, c.Hkv, c.d), c.granularity);
    testing::check_decode_layout(rank, grid, whole, c.mode);
  });
}

constexpr auto kKv = Granularity::kv_head;
constexpr auto kQuery = Granularity::query_head;
INSTANTIATE_TEST_SUITE_P(
    Layouts, DecodeLoopback,
    ::testing::Values(LoopbackCase{2, 1, DecodeMode::tensor, 8, 2, 64, kKv},
                      LoopbackCase{2, 1, DecodeMode::sequence, 8, 2, 64, kKv},
                      LoopbackCase{1, 2, DecodeMode::tensor, 8, 2, 128, kQuery},
                      LoopbackCase{1, 2, DecodeMode::sequence, 4, 4, 64, kKv},
                      LoopbackCase{3, 1, DecodeMode::tensor, 2, 2, 64, kKv},  // a rank without heads
                      LoopbackCase{3, 1, DecodeMode::sequence, 6, 2, 64, kQuery},
                      LoopbackCase{2, 2, DecodeMode::tensor, 8, 2, 64, kKv},
                      LoopbackCase{2, 2, DecodeMode::sequence, 8, 2, 64, kQuery},
                      LoopbackCase{1, 4, DecodeMode::tensor, 8, 2, 64, kKv},  // replicated KV heads
                      LoopbackCase{1, 4, DecodeMode::sequence, 8, 2, 64, kKv}));

}  // namespace
}  // namespace restkv
