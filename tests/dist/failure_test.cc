// How a run ends when a rank fails: every rank, soon, with the failing rank's own words and a non-zero exit code.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/dist/run_outcome.h"

namespace restkv {
namespace {

using testing_support::expect_all_ended;
using testing_support::Outcome;

constexpr double kDeadlineS = 0.5;  // of the program's collectives
constexpr double kEndS = 5.0;       // all ranks have ended this long after the failure

// On RESTKV_FAILURE_PROGRAM.
Outcome run(int ranks, const std::string& arguments) {
  return testing_support::run(RESTKV_MPIRUN, RESTKV_FAILURE_PROGRAM, ranks, arguments);
}
std::vector<Outcome> run_together(int ranks, const std::vector<std::string>& arguments) {
  return testing_support::run_together(RESTKV_MPIRUN, RESTKV_FAILURE_PROGRAM, ranks, arguments);
}

TEST(Failure, ARunWithoutFaultEndsWell) {
  Outcome outcome = run(3, "none all_reduce");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_FALSE(outcome.says("rank ")) << outcome.text;
}

TEST(Failure, ARankThatNeverArrivesEndsTheRun) {
  const std::vector<std::string> calls = {"all_gather", "all_reduce", "send_recv", "barrier"};
  std::vector<Outcome> outcomes =
      run_together(3, {"hang all_gather", "hang all_reduce", "hang send_recv", "hang barrier"});
  for (size_t i = 0; i < calls.size(); ++i) {
    SCOPED_TRACE(calls[i]);
    const Outcome& outcome = outcomes[i];
    expect_all_ended(outcome, 3, kDeadlineS + kEndS);
    EXPECT_GT(outcome.seconds, 0.9 * kDeadlineS);
    EXPECT_EQ(outcome.exit_code, 1) << outcome.text;
    const char* bytes = calls[i] == "barrier" ? "0" : "1000";
    EXPECT_TRUE(outcome.says(calls[i] + " of " + bytes + " bytes in group sequence did not end within 0.5 s"))
        << outcome.text;
    EXPECT_TRUE(outcome.says("rank 0: ") || outcome.says("rank 2: ")) << outcome.text;
    EXPECT_FALSE(outcome.says("rank 1: ")) << "the hanging rank is in no collective\n" << outcome.text;
  }
}

TEST(Failure, ARankDeafToSignalsIsEndedToo) { expect_all_ended(run(2, "hang_hard all_reduce"), 2, kDeadlineS + kEndS); }

TEST(Failure, TheEndOfTheProgramHasADeadlineToo) {
  Outcome outcome = run(2, "late barrier");
  expect_all_ended(outcome, 2, kDeadlineS + kEndS);
  EXPECT_TRUE(outcome.says("rank 0: finalize")) << outcome.text;
}

TEST(Failure, AnInputErrorOfOneRankEndsAllWithItsWordsAndCode) {
  Outcome outcome = run(4, "input_error all_gather");
  expect_all_ended(outcome, 4, kEndS);
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.times("rank 1: prompt.jsonl line 3: no text"), 1) << outcome.text;
}

TEST(Failure, ARuntimeFailureOfOneRankEndsAllWithItsWordsAndCode) {
  Outcome outcome = run(3, "failure all_reduce");
  expect_all_ended(outcome, 3, kEndS);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.times("rank 1: the disk caught fire"), 1) << outcome.text;
}

TEST(Failure, AnErrorOfAllRanksIsPrintedOnce) {
  Outcome outcome = run(4, "grid");
  expect_all_ended(outcome, 4, kEndS);
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.times("sequence 5 x tensor 1 needs 5 ranks"), 1) << outcome.text;
  EXPECT_TRUE(outcome.says("rank 0: layout")) << outcome.text;
}

TEST(Failure, ARankThatDiesEndsAll) {
  for (const Outcome& outcome :
       run_together(3, {"kill all_gather", "segv all_gather", "exit all_gather", "exit_zero all_gather"}))
    expect_all_ended(outcome, 3, kEndS);
}

// send_recv tells a wrong length by itself.
TEST(Failure, AMessageOfTheWrongLengthIsReported) {
  Outcome outcome = run(2, "longer send_recv");
  expect_all_ended(outcome, 2, kDeadlineS + kEndS);
  EXPECT_EQ(outcome.exit_code, 1) << outcome.text;
  EXPECT_TRUE(outcome.says("rank 0: ")) << outcome.text;
}

// The other collectives do with check_calls; without, MPI may report, hang (the deadline ends that), or worse.
TEST(Failure, RanksThatDisagreeAboutTheSizeAreReported) {
  const std::vector<std::string> calls = {"all_gather", "all_gather_v", "all_reduce", "broadcast"};
  std::vector<Outcome> outcomes = run_together(2, {"checked_longer all_gather", "checked_longer all_gather_v",
                                                   "checked_longer all_reduce", "checked_longer broadcast"});
  for (size_t i = 0; i < calls.size(); ++i) {
    expect_all_ended(outcomes[i], 2, kEndS);
    EXPECT_EQ(outcomes[i].exit_code, 1) << outcomes[i].text;
    EXPECT_EQ(outcomes[i].times("of group sequence differs: rank 0 makes " + calls[i] + " of "), 1) << outcomes[i].text;
  }
}

TEST(Failure, RanksThatMakeOtherCallsAreReported) {
  Outcome outcome = run(2, "checked_skip all_reduce");
  expect_all_ended(outcome, 2, kEndS);
  EXPECT_TRUE(outcome.says("rank 0 makes all_reduce of 250 f32 (max), rank 1 makes barrier")) << outcome.text;
}

}  // namespace
}  // namespace restkv
