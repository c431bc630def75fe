// Decoding on the GPU ranks that mpirun started, over NCCL and peer memory, inside graphs, on every layout of them,
// against one GPU. Skips where there are fewer GPUs than ranks.
#include <gtest/gtest.h>

#include <cstdlib>

#include "dist/comm/nccl_communicator.h"
#include "tests/model/decode_ranks.h"
#include "tests/mpi_world.h"

namespace restkv {
namespace {

using testing::mpi_runtime;

class DecodeRanks : public ::testing::Test {
 protected:
  void SetUp() override {
    const int count = GpuRuntime::count();
    if (count < mpi_runtime().local_size())
      GTEST_SKIP() << mpi_runtime().local_size() << " ranks on this host, " << count << " GPUs";
    Context::Options options{Device::gpu, 2};
    options.device_index = mpi_runtime().local_rank();
    ctx = std::make_unique<Context>(options);
    control = mpi_runtime().world(300);
  }

  ProcessGrid make_grid(int sequence, int tensor) {
    NcclOptions options;
    options.timeout_s = 120.0;
    options.on_expired = [](const std::string&) { std::_Exit(1); };
    return ProcessGrid(make_nccl_communicator(*ctx, *control, options), sequence, tensor, mpi_runtime().world(300));
  }
  testing::DecodeRank rank() { return {*ctx, *control, {}, true}; }

  void check(const ModelConfig& config, Granularity granularity, DecodeMode mode) {
    testing::WholeModel whole(*ctx, config, granularity);
    for (auto [sequence, tensor] : testing::all_layouts()) {
      if (!layout_fits(config, tensor)) continue;
      ProcessGrid grid = make_grid(sequence, tensor);
      testing::DecodeRank mine = rank();
      testing::check_decode_layout(mine, grid, whole, mode);
    }
  }
  static bool layout_fits(const ModelConfig& config, int tensor) {
    const std::vector<int> allowed = allowed_tensor_sizes(config);
    return std::find(allowed.begin(), allowed.end(), tensor) != allowed.end();
  }

  std::unique_ptr<Context> ctx;
  std::unique_ptr<Communicator> control;
};

TEST_F(DecodeRanks, Tensor) { check(testing::ranks_config(8, 2, 64), Granularity::kv_head, DecodeMode::tensor); }
TEST_F(DecodeRanks, Sequence) { check(testing::ranks_config(8, 2, 64), Granularity::kv_head, DecodeMode::sequence); }
TEST_F(DecodeRanks, TensorPerQueryHead) {
  check(testing::ranks_config(8, 4, 128), Granularity::query_head, DecodeMode::tensor);
}
TEST_F(DecodeRanks, SequencePerQueryHead) {
  check(testing::ranks_config(8, 4, 128), Granularity::query_head, DecodeMode::sequence);
}
// More ranks than heads, where the sequence group is one of three or four.
TEST_F(DecodeRanks, RanksWithoutHeads) {
  check(testing::ranks_config(2, 1, 64), Granularity::kv_head, DecodeMode::tensor);
}

// As many members as there may be, over peer memory and by collectives.
TEST_F(DecodeRanks, TheLargestBatch) {
  testing::WholeModel whole(*ctx, testing::ranks_config(8, 4, 128), Granularity::kv_head);
  for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence})
    for (bool peer_memory : {true, false}) {
      ProcessGrid grid = make_grid(control->size(), 1);
      testing::DecodeRank mine = rank();
      auto model = testing::make_ranks_model(mine, grid, whole, mode, peer_memory);
      SCOPED_TRACE(std::string(mode == DecodeMode::tensor ? "tensor, " : "sequence, ") +
                   model->decode_groups().describe());
      testing::expect_largest_batch_near_single(*model, whole, mine.graphs);
    }
}

TEST_F(DecodeRanks, PhasesAndBytes) {
  ProcessGrid grid = make_grid(1, control->size());
  testing::WholeModel whole(*ctx, testing::ranks_config(8, 4, 128), Granularity::kv_head);
  if (!layout_fits(whole.config, grid.tensor_size())) GTEST_SKIP() << "8 heads do not fit " << grid.size() << " ranks";
  testing::DecodeRank mine = rank();
  auto model = testing::make_ranks_model(mine, grid, whole, DecodeMode::tensor, true);
  const Sequence prompt = whole.prefill(100);
  Sequence sequence = testing::share_of(prompt, *model, 20);
  DeviceDecodeBatch batch(*model, {{&sequence, {}, 0}});
  auto sent = [&] {
    return grid.world().stats().bytes_sent + grid.sequence().stats().bytes_sent + grid.tensor().stats().bytes_sent;
  };
  std::vector<int64_t> per_step;
  for (int step = 0; step < 4; ++step) {  // eager, captured, launched again
    const std::vector<int32_t> tokens(batch.tokens().begin(), batch.tokens().end());
    const int64_t before = sent();
    batch.step(tokens);
    per_step.push_back(sent() - before);
  }
  const ModelConfig& c = whole.config;
  const int64_t n = grid.size(), sums = 2 * c.layers + 1;
  const int64_t want = sums * (2 * (n - 1) * c.hidden * 4 / n) + (n - 1) * model->plan().decode.vocab.size() * 4;
  for (int64_t bytes : per_step) EXPECT_EQ(bytes, grid.size() == 1 ? 0 : want);
  double exchange = 0.0;
  const std::vector<int32_t> tokens(batch.tokens().begin(), batch.tokens().end());
  for (const PhaseTime& phase : batch.timed_step(tokens))
    if (phase.name == "exchange") exchange = phase.seconds;
  EXPECT_EQ(exchange > 0.0, grid.size() > 1);
}

}  // namespace
}  // namespace restkv
