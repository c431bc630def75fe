// Bad input to a run on two ranks: exit code 2 and one message from one rank.
#include <gtest/gtest.h>

#include "dist/base/gpu_runtime.h"
#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

using testing::count_of;
using testing::Outcome;
using testing::TinyModel;

class RunErrors : public ::testing::Test {
 protected:
  /// Runs on `ranks` ranks and expects one message with all of `parts`, and no result.
  void refuse(const std::string& arguments, const std::vector<std::string>& parts, int ranks = 2) {
    Outcome outcome = testing::restkv(ranks, "run " + arguments);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "restkv: error: "), 1) << outcome.err;
    for (const std::string& part : parts)
      EXPECT_NE(outcome.err.find(part), std::string::npos) << part << "\nin " << outcome.err;
    EXPECT_LT(outcome.seconds, 30.0);
    if (std::filesystem::exists(model_.results())) {
      EXPECT_TRUE(testing::read_results(model_.results()).empty());
    }
  }
  std::string prompt_file(const std::string& content) {
    model_.dir().write("p.txt", content);
    return " --set prompt.jsonl= --set prompt.file=" + model_.dir().path("p.txt");
  }
  TinyModel model_;
  std::string config_ = model_.config(1, 200);
};

TEST_F(RunErrors, UnknownKey) {
  std::string path = model_.dir().write("bad.yaml", "model:\n  path: m\ncache:\n  budgte: 5\n");
  refuse(path, {"bad.yaml:4: unknown key \"cache.budgte\"", "\"cache.budget\""});
}

TEST_F(RunErrors, MistypedValue) {
  std::string path = model_.dir().write("bad.yaml", "cache:\n  window: wide\n");
  refuse(path, {"bad.yaml:2: cache.window: found \"wide\" (text), expected an integer"});
}

TEST_F(RunErrors, WorldSize) {
  refuse(config_ + " --set parallel.sequence=3",
         {"run.yaml: parallel.sequence x parallel.tensor is 3 x 1 = 3 ranks, but "
          "the run has 2; expected mpirun -np 3"});
  refuse(config_ + " --set parallel.tensor=2", {"parallel.tensor is 2, but the run has 1 ranks"}, 1);
}

TEST_F(RunErrors, TensorSizeThatDoesNotDivideTheHeads) {
  refuse(config_ + " --set parallel.tensor=3", {"run.yaml: parallel.tensor: 3", "allowed: 1, 2, 4, 8"}, 3);
}

TEST_F(RunErrors, BudgetBelowTheWindow) {
  refuse(config_ + " --set cache.budget=20", {"run.yaml: cache.budget", "20", "at least 33"});
  refuse(config_ + " --set cache.budget=10%",
         {"prompts.jsonl:1: cache.budget is 20 tokens for this prompt of 200", "at least 33"});
}

TEST_F(RunErrors, MissingFiles) {
  refuse("/nonexistent.yaml", {"/nonexistent.yaml: cannot read the configuration: No such file"});
  refuse(config_ + " --set model.path=/nonexistent/m.gguf", {"/nonexistent/m.gguf"});
  refuse(config_ + " --set prompt.jsonl=/nonexistent/p.jsonl", {"/nonexistent/p.jsonl", "No such file"});
}

TEST_F(RunErrors, PromptsThatAreNone) {
  refuse(config_ + prompt_file("abc\xff"), {"p.txt: invalid UTF-8 at byte 3"});
  refuse(config_ + prompt_file(""), {"p.txt: the prompt is empty"});
  refuse(config_ + prompt_file(TinyModel::text(1, 4097)), {"p.txt: the prompt has 4097 tokens", "4096 positions"});
}

TEST_F(RunErrors, RunThatDoesNotFit) {
  refuse(config_ + " --set parallel.memory_gib=0.001", {"does not fit into memory", "What would fit"});
}

// On a machine with a GPU its two ranks are too many, elsewhere there is none.
TEST_F(RunErrors, GpuWhereThereIsNone) {
  if (GpuRuntime::count() > 0) GTEST_SKIP() << "this host has a GPU";
  refuse(config_ + " --set parallel.device=gpu", {"run.yaml: parallel.device is gpu"});
}

TEST_F(RunErrors, DiskFull) {
  refuse(config_ + " --set output.file=/dev/full --set generate.max_new_tokens=2",
         {"output.file /dev/full: cannot write a result", "No space left on device"});
}

}  // namespace
}  // namespace restkv
