// How a run of GPU ranks ends when one of them fails: every rank, soon, with a message that tells what happened.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "dist/base/gpu_runtime.h"
#include "tests/dist/run_outcome.h"

namespace restkv {
namespace {

using testing_support::expect_all_ended;
using testing_support::Outcome;

constexpr double kDeadlineS = 15.0;  // of the program's collectives on GPUs
constexpr double kEndS = 10.0;       // all ranks have ended this long after the failure, or after the deadline

class GpuFailure : public ::testing::Test {
 protected:
  void SetUp() override {
    if (GpuRuntime::count() < 2) GTEST_SKIP() << "needs 2 GPUs, sees " << GpuRuntime::count();
  }
  std::vector<Outcome> run_together(const std::vector<std::string>& arguments) {
    return testing_support::run_together(RESTKV_MPIRUN, RESTKV_FAILURE_PROGRAM, 2, arguments);
  }
};

TEST_F(GpuFailure, ARunWithoutFaultEndsWell) {
  for (const Outcome& outcome : run_together({"none all_reduce gpu", "none graph gpu", "none send_recv gpu"})) {
    EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
    EXPECT_FALSE(outcome.says("rank ")) << outcome.text;
  }
}

TEST_F(GpuFailure, ARankThatHangsOrIsStoppedEndsTheRunAtTheDeadline) {
  const std::vector<std::string> runs = {"hang all_reduce gpu", "stop all_gather gpu", "hang_hard broadcast gpu",
                                         "hang graph gpu"};
  const std::vector<std::string> words = {"rank 0, work: all_reduce of 1000 bytes in group sequence did not end within",
                                          "rank 0, work: all_gather of 1000 bytes in group sequence did not end within",
                                          "rank 0, work: broadcast of 1000 bytes in group sequence did not end within",
                                          "rank 0, work: graph launch of 0 bytes in group world did not end within"};
  const std::vector<Outcome> outcomes = run_together(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    SCOPED_TRACE(runs[i]);
    expect_all_ended(outcomes[i], 2, kDeadlineS + kEndS);
    EXPECT_GT(outcomes[i].seconds, 0.9 * kDeadlineS) << outcomes[i].text;
    EXPECT_EQ(outcomes[i].exit_code, 1) << outcomes[i].text;
    EXPECT_TRUE(outcomes[i].says(words[i])) << outcomes[i].text;
  }
}

TEST_F(GpuFailure, ARankThatDiesEndsAll) {
  for (const Outcome& outcome : run_together({"kill all_gather gpu", "exit all_reduce gpu", "segv graph gpu"}))
    expect_all_ended(outcome, 2, kEndS);
}

TEST_F(GpuFailure, AnErrorOfOneRankEndsAllWithItsWordsAndCode) {
  const std::vector<Outcome> outcomes =
      run_together({"input_error all_gather gpu", "failure all_reduce gpu", "throw_waiting all_gather gpu"});
  const std::vector<std::string> words = {"prompt.jsonl line 3: no text", "the disk caught fire",
                                          "the disk caught fire"};
  for (size_t i = 0; i < outcomes.size(); ++i) {
    expect_all_ended(outcomes[i], 2, kEndS);
    EXPECT_EQ(outcomes[i].exit_code, i == 0 ? 2 : 1) << outcomes[i].text;
    EXPECT_EQ(outcomes[i].times("rank 1, work: " + words[i]), 1) << outcomes[i].text;
  }
}

TEST_F(GpuFailure, RanksThatDisagreeAboutTheSizeAreReported) {
  const std::vector<Outcome> outcomes =
      run_together({"checked_longer all_gather gpu", "checked_longer all_reduce gpu", "longer_last all_gather gpu"});
  for (size_t i = 0; i < 2; ++i) {
    expect_all_ended(outcomes[i], 2, kEndS);
    // Rank 1 speaks too when the end of a process with a GPU takes longer than rank 0's lead.
    EXPECT_GE(outcomes[i].times("of group sequence differs: rank 0 makes "), 1) << outcomes[i].text;
  }
  // Nothing compares the calls: rank 1 waits for what rank 0 never sends.
  expect_all_ended(outcomes[2], 2, kDeadlineS + kEndS);
  EXPECT_TRUE(outcomes[2].says("rank 1, work: all_gather of 5000 bytes in group sequence did not end"))
      << outcomes[2].text;
}

}  // namespace
}  // namespace restkv
