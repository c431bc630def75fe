// The plan against a measured run of the whole program, on every kind of layout.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "dist/base/error.h"
#include "launch/plan/context_choice.h"
#include "launch/plan/memory_plan.h"
#include "launch/plan/traffic_plan.h"
#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

using testing::TinyModel;

struct Case {
  const char* name;
  int sequence, tensor;
  std::vector<std::string> sets;
};

PlanInput input_for(const TinyModel& model, const std::string& config_path, const Case& c, int64_t L) {
  RunConfig config = load_run_config(config_path, c.sets);
  config.parallel.sequence = c.sequence;
  config.parallel.tensor = c.tensor;
  static std::vector<Checkpoint> keep;  // the weights' headers outlive the input
  keep.push_back(open_checkpoint(model.path()));
  return make_plan_input(keep.back(), config, resolve_decode(config.parallel.decode, true), L);
}

class PlanAgainstRun : public ::testing::TestWithParam<Case> {};

TEST_P(PlanAgainstRun, MemoryAndBytes) {
  const Case& c = GetParam();
  TinyModel model;
  constexpr int64_t kLength = 1800;
  std::string path = model.config(1, kLength, "generate: {max_new_tokens: 12, ignore_eos: true}\n");
  std::string arguments =
      fmt::format("run {} --set parallel.sequence={} --set parallel.tensor={}", path, c.sequence, c.tensor);
  for (const std::string& set : c.sets) arguments += " --set " + set;
  auto outcome = testing::restkv(c.sequence * c.tensor, arguments);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  auto results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 1u);
  const auto& r = results[0];

  PlanInput input = input_for(model, path, c, kLength);
  const bool by_head = deals_to_heads(input.config.cache.allocation);
  for (int64_t layer = 0; layer < input.model.layers; ++layer) {
    const std::vector<int64_t> counts = r["kept_counts"].at(static_cast<size_t>(layer));
    int64_t sum = 0;
    for (int64_t count : counts) {
      sum += count;
      EXPECT_TRUE(by_head || count == input.kept_in(layer)) << "layer " << layer << ": " << count;
    }
    EXPECT_EQ(sum, input.kept_in(layer) * static_cast<int64_t>(counts.size())) << "layer " << layer;
  }
  TrafficPlan traffic = plan_traffic(input);
  EXPECT_EQ(traffic.prefill, r["bytes_sent"]["prefill"].get<int64_t>());
  // The first token's broadcast precedes the steps.
  int64_t world = c.sequence * c.tensor;
  EXPECT_EQ(traffic.decode_per_token * 11 + 8 * (world - 1), r["bytes_sent"]["decode"].get<int64_t>());
  // Ties at a cut, and where the kept rows lie, are not known before the run.
  auto evict = r["bytes_sent"]["evict"].get<double>(), reshard = r["bytes_sent"]["reshard"].get<double>();
  EXPECT_NEAR(static_cast<double>(traffic.evict), evict, 0.05 * evict);
  EXPECT_NEAR(static_cast<double>(traffic.reshard), reshard, 0.25 * reshard);
  std::array<int64_t, 3> sums = {};
  ASSERT_EQ(r["bytes_sent_by_layer"].size(), static_cast<size_t>(input.model.layers));
  for (const auto& layer : r["bytes_sent_by_layer"]) {
    EXPECT_EQ(layer[0], traffic.prefill_layer);
    EXPECT_NEAR(layer[1].get<double>(), evict / static_cast<double>(input.model.layers), 0.05 * evict);
    for (size_t i = 0; i < 3; ++i) sums[i] += layer[i].get<int64_t>();
  }
  EXPECT_EQ(sums[1], r["bytes_sent"]["evict"]);
  EXPECT_EQ(sums[2], r["bytes_sent"]["reshard"]);

  std::vector<int64_t> peaks = r["peak_bytes"];
  auto measured = static_cast<double>(*std::max_element(peaks.begin(), peaks.end()));
  EXPECT_NEAR(static_cast<double>(plan_memory(input).total()), measured, 0.15 * measured)
      << describe(plan_memory(input), 1, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, PlanAgainstRun,
    ::testing::Values(
        Case{"one", 1, 1, {"cache.budget=20%"}}, Case{"full", 1, 1, {"cache.policy=full"}},
        Case{"sequence2", 2, 1, {"cache.budget=20%"}},
        Case{"sequence3", 3, 1, {"cache.budget=200", "parallel.decode=sequence"}},
        Case{"tensor2", 1, 2, {"cache.budget=20%"}}, Case{"both", 2, 2, {"cache.budget=20%"}},
        Case{"before", 2, 1, {"cache.budget=20%", "cache.mode=before", "cache.pooling=average"}},
        Case{"ring2", 2, 1, {"cache.budget=20%", "parallel.context=ring"}},
        Case{"ring3", 3, 1, {"cache.policy=full", "parallel.context=ring", "parallel.decode=sequence"}},
        Case{"ring_both", 2, 2, {"cache.budget=20%", "parallel.context=ring"}},
        Case{"query_head", 2, 1, {"cache.budget=20%", "cache.granularity=query_head"}},
        Case{"full2", 2, 1, {"cache.policy=full"}},
        Case{"pyramid", 1, 1, {"cache.budget=20%", "cache.allocation=pyramid"}},
        Case{"pyramid3",
             3,
             1,
             {"cache.policy=snapkv", "cache.pooling=max", "cache.budget=200", "cache.allocation=pyramid"}},
        Case{"ada", 2, 2, {"cache.budget=20%", "cache.allocation=ada"}},
        Case{"ablation", 2, 1, {"cache.budget=20%", "cache.reconstruction=false", "cache.temporal=inverse_ema"}},
        Case{"last_row", 1, 2, {"cache.budget=20%", "cache.temporal=last"}},
        Case{"tova", 2, 2, {"cache.policy=tova", "cache.budget=20%", "cache.window=1"}},
        Case{"streaming", 2, 1, {"cache.policy=streaming_llm", "cache.budget=20%"}},
        Case{"sliding", 1, 2, {"cache.policy=sliding_window", "cache.budget=20%"}},
        Case{"key_norm", 1, 2, {"cache.policy=key_norm", "cache.budget=20%"}},
        Case{"chunk", 1, 1, {"cache.budget=20%", "prefill.chunk=256"}},
        Case{"chunk_both", 2, 2, {"cache.budget=20%", "prefill.chunk=128"}},
        Case{"chunk3", 3, 1, {"cache.policy=full", "parallel.decode=sequence", "prefill.chunk=128"}},
        Case{"chunk_h2o", 2, 1, {"cache.policy=h2o", "cache.pooling=none", "cache.budget=20%", "prefill.chunk=128"}},
        Case{"host", 2, 1, {"cache.budget=20%", "prefill.chunk=128", "prefill.residual=host"}},
        Case{"h2o", 2, 1, {"cache.policy=h2o", "cache.pooling=none", "cache.budget=20%"}},
        Case{"bf16", 1, 1, {"cache.policy=random", "cache.budget=64", "model.dtype=bf16"}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Plan, RefusalNamesWhatFits) {
  TinyModel model;
  Case c{"", 1, 1, {"cache.policy=full"}};
  std::string path = model.config(1, 100);
  PlanInput input = input_for(model, path, c, 3000);
  int64_t total = plan_memory(input).total();
  EXPECT_NO_THROW(require_fit(input, plan_memory(input), 1, total));
  EXPECT_NO_THROW(require_fit(input, plan_memory(input), 1, 0));  // unknown
  std::string text =
      testing::message_of<InputError>([&] { require_fit(input, plan_memory(input), 1, total * 6 / 10); });
  EXPECT_NE(text.find("run.yaml: the run does not fit into memory"), std::string::npos) << text;
  // The longest prompt that it names fits, and one token more does not.
  size_t at = text.find("a prompt of at most ");
  ASSERT_NE(at, std::string::npos) << text;
  PlanInput longest = input;
  longest.L = std::stoll(text.substr(at + 20));
  EXPECT_LE(plan_memory(longest).total(), total * 6 / 10);
  longest.L += 1;
  EXPECT_GT(plan_memory(longest).total(), total * 6 / 10);
  // A little too much: half of the weights' bytes are more than that.
  text = testing::message_of<InputError>([&] { require_fit(input, plan_memory(input), 1, total - total / 30); });
  EXPECT_NE(text.find("model.dtype: bf16"), std::string::npos) << text;
  EXPECT_THROW(require_fit(input, plan_memory(input), 2, total * 3 / 2), InputError);  // two such ranks
}

TEST(Plan, ChunksMakeRoom) {
  TinyModel model;
  const std::string path = model.config(1, 100);
  auto input_of = [&](const std::string& set) {
    return input_for(model, path, {"", 1, 1, {"cache.policy=streaming_llm", set}}, 100000);
  };
  const PlanInput whole = input_of("prefill.chunk=0"), chunked = input_of("prefill.chunk=2048");
  const int64_t all = plan_memory(whole).total(), some = plan_memory(chunked).total();
  ASSERT_LT(some, all);
  const std::string text = testing::message_of<InputError>([&] { require_fit(whole, plan_memory(whole), 1, some); });
  EXPECT_NE(text.find("; prefill.chunk: 2048"), std::string::npos) << text;
  EXPECT_NO_THROW(require_fit(chunked, plan_memory(chunked), 1, some));
  // Of a GPU the residual stream moves out as well; two chunks of it stay.
  PlanInput device = chunked, host = chunked;
  device.device = host.device = Device::gpu;
  host.config.prefill.residual = ResidualPlace::host;
  const int64_t row = host.model.hidden * 4, rows = host.rows_at_once(0);
  EXPECT_EQ(rows, 2048);
  EXPECT_EQ(plan_memory(device).total() - plan_memory(host).total(), (100000 - 2 * rows) * row);
  EXPECT_EQ(plan_memory(host).host, 100000 * row);
  EXPECT_NE(describe(plan_memory(host), 1, 0).find("of the host's memory a rank"), std::string::npos);
  host.L = 2000;  // one chunk: it stays
  EXPECT_EQ(plan_memory(host).host, 0);
  // The ring is not chosen for it.
  PlanInput spread = input_for(model, path, {"", 2, 1, {"cache.policy=full", "prefill.chunk=128"}}, 3000);
  EXPECT_EQ(choose_context(spread, false, 2, 0), ContextPlan::allgather);
}

TEST(Plan, ContextByHostsAndMemory) {
  TinyModel model;
  std::string path = model.config(1, 100);
  auto input_of = [&](int sequence, const std::string& set) {
    return input_for(model, path, {"", sequence, 1, {"cache.policy=full", set}}, 3000);
  };
  const int64_t plenty = int64_t{1} << 40;
  for (const char* name : {"allgather", "ring"}) {
    PlanInput input = input_of(2, fmt::format("parallel.context={}", name));
    EXPECT_EQ(name_of(choose_context(input, false, 1, 1)), name);
    EXPECT_EQ(name_of(choose_context(input, true, 1, plenty)), name);
  }
  PlanInput automatic = input_of(2, "parallel.context=auto");
  EXPECT_EQ(choose_context(automatic, true, 2, plenty), ContextPlan::allgather);
  EXPECT_EQ(choose_context(automatic, true, 2, 0), ContextPlan::allgather);
  EXPECT_EQ(choose_context(automatic, false, 2, plenty), ContextPlan::ring);
  EXPECT_EQ(choose_context(input_of(1, "parallel.context=auto"), false, 2, plenty), ContextPlan::allgather);
  automatic.model.traits.sliding_window = 1000;  // the ring has no such mask
  EXPECT_EQ(choose_context(automatic, false, 2, plenty), ContextPlan::allgather);
  automatic.model.traits.sliding_window = 5000;
  EXPECT_EQ(choose_context(automatic, false, 2, plenty), ContextPlan::ring);

  // On many ranks a gathered layer is larger than what the ring holds; memory between the two leaves the ring alone.
  PlanInput many = input_of(16, "parallel.context=auto"), with_ring = many;
  with_ring.context = ContextPlan::ring;
  const int64_t gathered = plan_memory(many).total(), ring = plan_memory(with_ring).total();
  ASSERT_LT(ring, gathered);
  EXPECT_EQ(choose_context(many, true, 1, gathered), ContextPlan::allgather);
  EXPECT_EQ(choose_context(many, true, 1, gathered - 1), ContextPlan::ring);
  EXPECT_EQ(choose_context(many, true, 1, ring - 1), ContextPlan::allgather);  // neither fits: the refusal says so
}

TEST(Plan, MemoryLimit) {
  RunConfig config;
  EXPECT_EQ(memory_limit(config, 5), 5);
  config.parallel.memory_gib = 0.5;
  EXPECT_EQ(memory_limit(config, 5), int64_t{1} << 29);
}

}  // namespace
}  // namespace restkv
