// The rules of eviction while decoding where the rows of a head are spread over GPU ranks (threads on one GPU), against
// one CPU rank that has all of them. Skips when there is no GPU.
#include "tests/dist/loopback_communicator.h"
#include "tests/gpu_test.h"
#include "tests/kvcache/decode_evict_twins.h"

namespace restkv::testing {
namespace {

class DecodeEvictGroupGpu : public GpuTest {
 protected:
  void run(const RuleCase& c, const std::vector<int64_t>& prompts, bool ragged, int steps,
           const std::vector<int>& sizes = {2, 3, 4}) {
    gpu.reset();
    for (int ranks : sizes) {
      if (HasFailure()) return;
      run_loopback(ranks, Device::gpu,
                   [&](LoopbackRank& rank) { EvictTwins(rank.ctx, *rank.world).run(c, prompts, ragged, steps); });
    }
  }
};

TEST_F(DecodeEvictGroupGpu, RulesByPosition) {
  run({"streaming_llm"}, {60, 90, 20}, false, 100);
  run({"streaming_llm", 7, 0, 0, 6, 3, 48}, {60, 89}, false, 100);
  run({"sliding_window", 4, 120, 50, 4, 4, 128}, {30, 90}, false, 120);
  run({"sliding_window", 1, 0, 0, 6, 2, 16, Granularity::query_head}, {30, 90}, false, 60);
  RuleCase ladder{"lacache", 1};
  ladder.window = 1;
  run(ladder, {60, 90}, false, 150);
  ladder.every = 5;
  run(ladder, {60, 90}, false, 150);
  run({"random", 3}, {80, 90}, false, 80);
  run({"random", 2, 0, 0, 6, 2, 64, Granularity::query_head}, {80, 90}, false, 60);
}

TEST_F(DecodeEvictGroupGpu, TheLastTokensAttention) {
  RuleCase tova{"tova"};
  tova.window = 1;
  run(tova, {80, 90, 20}, false, 100);
  run({"tova", 4, 100, 60, 12, 3, 128}, {80, 90}, false, 80);
  run({"tova", 3, 0, 0, 9, 3, 80, Granularity::query_head}, {80, 90}, false, 60);
}

TEST_F(DecodeEvictGroupGpu, RunningSums) {
  run({"h2o"}, {80, 90, 20}, false, 100);
  run({"h2o", 4, 120, 50, 4, 1, 256}, {80, 90}, false, 80);
  run({"h2o", 3, 0, 0, 6, 2, 112, Granularity::query_head}, {80, 90}, false, 60);
  run({"h2o", 2, 0, 0, 8, 4, 64, Granularity::kv_head, Allocation::ada}, {200, 150}, true, 80);
  run({"key_norm", 3}, {80, 90}, false, 80);
  run({"key_norm", 2, 0, 0, 8, 4, 48, Granularity::query_head, Allocation::ada}, {200, 150}, true, 60);
}

TEST_F(DecodeEvictGroupGpu, ManyRowsAndManyMembers) {
  RuleCase tova{"tova", 40, 0, 0, 4, 2, 16};
  tova.window = 1;
  tova.budget = 2500;
  run(tova, {2490, 2300}, false, 80, {2});
  std::vector<int64_t> prompts;
  for (int64_t i = 0; i < 19; ++i) prompts.push_back(40 + 2 * i);
  run({"h2o", 2, 0, 0, 2, 1, 16, Granularity::kv_head, Allocation::uniform, 60}, prompts, false, 30, {3});
  run({"streaming_llm", 1, 0, 0, 2, 1, 16, Granularity::kv_head, Allocation::uniform, 60}, prompts, false, 30, {3});
}

TEST_F(DecodeEvictGroupGpu, Rescoring) {
  run({"snapkv", 8}, {80, 90, 10}, false, 100);
  run({"snapkv", 8, 120, 60, 4, 4, 128, Granularity::kv_head, Allocation::uniform, 90, 16, Pooling::max}, {80, 90},
      false, 80);
  run({"restkv", 10}, {80, 90}, false, 80);
  run({"restkv", 10, 0, 0, 6, 2, 128, Granularity::query_head}, {80, 90}, false, 60);
  run({"restkv", 7, 0, 0, 8, 4, 64, Granularity::kv_head, Allocation::ada, 90, 16, Pooling::none}, {200, 150}, true,
      60);
}

// Keys that are all alike: the lowest positions stay, wherever they lie.
TEST_F(DecodeEvictGroupGpu, TiesGoToTheLowestPositions) {
  gpu.reset();
  RuleCase c{"key_norm", 4};
  c.equal_keys = true;
  run(c, {80, 90}, false, 60);
}

}  // namespace
}  // namespace restkv::testing
