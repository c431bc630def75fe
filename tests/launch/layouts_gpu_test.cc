// The program on one GPU and on two, in every layout and both ways of decoding, policy by policy: the same texts, and
// the same kept sets where the layout leaves queries, keys and values as they are. Skips with fewer than two GPUs.
#include <gtest/gtest.h>

#include <memory>

#include "dist/base/gpu_runtime.h"
#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

struct Layout {
  int sequence, tensor;
  const char* decode;
};
constexpr Layout kLayouts[] = {{1, 1, "tensor"}, {2, 1, "tensor"}, {2, 1, "sequence"}, {1, 2, "tensor"}};

struct Policy {
  const char* name;
  const char* cache;
};
constexpr Policy kPolicies[] = {
    {"full", ""},
    {"restkv", "budget: 120"},
    {"snapkv", "budget: 120, pooling: average"},
    {"h2o", "budget: 120, window: 60"},
    {"tova", "budget: 120, window: 1"},
    {"lacache", "budget: 120, window: 1"},
    {"streaming_llm", "budget: 120, window: 1"},
    {"sliding_window", "budget: 120, window: 1"},
    {"key_norm", "budget: 120"},
    {"random", "budget: 120"},
};

/// All layouts of one policy, started together: most of a short run is the start of MPI, CUDA and NCCL.
class PolicyRuns {
 public:
  explicit PolicyRuns(const Policy& policy) : policy_(policy) {
    const std::string config =
        model_.config(4, 600,
                      fmt::format("generate: {{max_new_tokens: 24, ignore_eos: true}}\ncache: {{policy: {}{}{}}}\n"
                                  "parallel: {{threads: 1}}\n",
                                  policy.name, *policy.cache == 0 ? "" : ", ", policy.cache));
    for (const Layout& layout : kLayouts)
      processes_.push_back(std::make_unique<testing::Process>(testing::restkv_command(
          layout.sequence * layout.tensor,
          fmt::format("run {} --set parallel.device=gpu --set parallel.sequence={} --set parallel.tensor={} --set "
                      "parallel.decode={} --set output.file={}",
                      config, layout.sequence, layout.tensor, layout.decode, results_of(layout)))));
  }

  void check() {
    std::vector<nlohmann::json> whole;
    for (size_t i = 0; i < std::size(kLayouts); ++i) {
      const Layout& layout = kLayouts[i];
      SCOPED_TRACE(fmt::format("{} on {}x{}, decode {}", policy_.name, layout.sequence, layout.tensor, layout.decode));
      const testing::Outcome ended = processes_[i]->wait();
      ASSERT_EQ(ended.exit_code, 0) << ended.err;
      const std::vector<nlohmann::json> results = testing::read_results(results_of(layout));
      ASSERT_EQ(results.size(), 4u) << ended.err;
      if (i == 0) whole = results;
      for (size_t prompt = 0; prompt < results.size(); ++prompt)
        compare(results[prompt], whole[prompt], layout.tensor == 1);
    }
  }

 private:
  void compare(const nlohmann::json& got, const nlohmann::json& want, bool same_rows) {
    EXPECT_EQ(got["text"], want["text"]) << want["id"];
    EXPECT_EQ(got["evicted"], *policy_.cache != 0) << want["id"];
    if (same_rows) {
      EXPECT_EQ(got["kept_hash"], want["kept_hash"]) << want["id"];
    }
  }
  std::string results_of(const Layout& layout) const {
    return model_.dir().path(fmt::format("{}x{}_{}.jsonl", layout.sequence, layout.tensor, layout.decode));
  }

  Policy policy_;
  testing::TinyModel model_;
  std::vector<std::unique_ptr<testing::Process>> processes_;
};

TEST(LayoutsGpu, SameTextAndKeptSets) {
  if (GpuRuntime::count() < 2) GTEST_SKIP() << "needs 2 GPUs, sees " << GpuRuntime::count();
  constexpr size_t kTogether = 5;
  for (size_t first = 0; first < std::size(kPolicies); first += kTogether) {
    std::vector<std::unique_ptr<PolicyRuns>> runs;
    for (size_t i = first; i < std::min(first + kTogether, std::size(kPolicies)); ++i)
      runs.push_back(std::make_unique<PolicyRuns>(kPolicies[i]));
    for (const std::unique_ptr<PolicyRuns>& policy : runs) policy->check();
  }
}

}  // namespace
}  // namespace restkv
