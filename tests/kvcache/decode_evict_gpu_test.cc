// The rules of eviction while decoding on one GPU against the CPU. Skips when there is no GPU.
#include "tests/gpu_test.h"
#include "tests/kvcache/decode_evict_twins.h"

namespace restkv::testing {
namespace {

class DecodeEvictGpu : public GpuTest {
 protected:
  void run(const RuleCase& c, const std::vector<int64_t>& prompts, bool ragged, int steps) {
    EvictTwins(*gpu, *self).run(c, prompts, ragged, steps);
  }
  std::unique_ptr<Communicator> self = make_self_communicator();
};

TEST_F(DecodeEvictGpu, RulesByPosition) {
  run({"streaming_llm"}, {60, 90, 20}, false, 120);
  run({"streaming_llm", 7, 0, 0, 6, 3, 48}, {60, 89}, false, 120);
  run({"sliding_window", 4, 120, 50, 4, 4, 128}, {30, 90}, false, 150);
  run({"sliding_window", 1, 0, 0, 6, 2, 16, Granularity::query_head}, {30, 90}, false, 100);
  RuleCase ladder{"lacache", 1};
  ladder.window = 1;
  run(ladder, {60, 90}, false, 300);
  ladder.every = 5;
  run(ladder, {60, 90}, false, 300);
  run({"random", 3}, {80, 90}, false, 100);
  run({"random", 2, 0, 0, 6, 2, 64, Granularity::query_head}, {80, 90}, false, 100);
}

TEST_F(DecodeEvictGpu, TheLastTokensAttention) {
  RuleCase tova{"tova"};
  tova.window = 1;
  run(tova, {80, 90, 20}, false, 150);
  tova = {"tova", 4, 100, 60, 12, 3, 128};
  run(tova, {80, 90}, false, 120);
  tova = {"tova", 3, 0, 0, 9, 3, 80, Granularity::query_head};
  run(tova, {80, 90}, false, 100);
}

TEST_F(DecodeEvictGpu, RunningSums) {
  run({"h2o"}, {80, 90, 20}, false, 150);
  run({"h2o", 4, 120, 50, 4, 1, 256}, {80, 90}, false, 120);
  run({"h2o", 3, 0, 0, 6, 2, 112, Granularity::query_head}, {80, 90}, false, 100);
  run({"h2o", 2, 0, 0, 8, 4, 64, Granularity::kv_head, Allocation::ada}, {200, 150}, true, 100);
  run({"key_norm", 3}, {80, 90}, false, 100);
  run({"key_norm", 2, 0, 0, 8, 4, 48, Granularity::query_head, Allocation::ada}, {200, 150}, true, 100);
}

// More rows than a block holds keys of, and more members than one launch takes.
TEST_F(DecodeEvictGpu, ManyRowsAndManyMembers) {
  RuleCase tova{"tova", 40, 0, 0, 4, 2, 16};
  tova.window = 1;
  tova.budget = 2500;
  run(tova, {2490, 2300}, false, 80);
  run({"h2o", 40, 0, 0, 2, 1, 16, Granularity::kv_head, Allocation::uniform, 2500}, {2490}, false, 80);
  std::vector<int64_t> prompts;
  for (int64_t i = 0; i < 19; ++i) prompts.push_back(40 + 2 * i);
  run({"h2o", 2, 0, 0, 2, 1, 16, Granularity::kv_head, Allocation::uniform, 60}, prompts, false, 40);
  run({"streaming_llm", 1, 0, 0, 2, 1, 16, Granularity::kv_head, Allocation::uniform, 60}, prompts, false, 40);
}

TEST_F(DecodeEvictGpu, Rescoring) {
  run({"snapkv", 8}, {80, 90, 10}, false, 150);
  run({"snapkv", 8, 120, 60, 4, 4, 128, Granularity::kv_head, Allocation::uniform, 90, 16, Pooling::max}, {80, 90},
      false, 120);
  run({"restkv", 10}, {80, 90}, false, 120);
  run({"restkv", 10, 0, 0, 6, 2, 128, Granularity::query_head}, {80, 90}, false, 100);
  run({"restkv", 7, 0, 0, 8, 4, 64, Granularity::kv_head, Allocation::ada, 90, 16, Pooling::none}, {200, 150}, true,
      80);
}

}  // namespace
}  // namespace restkv::testing
