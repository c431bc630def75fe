// A rank that fails while weights are loaded, in prefill, in eviction or in decode: all ranks end in time, the message
// says where, and no finished result is lost.
#include <gtest/gtest.h>

#include "tests/launch/faulty_run.h"

namespace restkv {
namespace {

using testing::expect_end;
using testing::expect_text;
using testing::FaultyOutcome;
using testing::FaultyRun;
using testing::finished;

constexpr double kDeadlineS = 2.0;  // of a call
constexpr double kEndS = 6.0;       // all ranks have ended this long after the failure, or after the deadline

struct Place {
  const char* name;
  const char* doing;
};
constexpr Place kPlaces[] = {{"load", "load"},
                             {"prefill", "prefill, layer 1, exchange"},
                             {"scoring", "prefill, layer 1, scoring"},
                             {"selection", "prefill, layer 0, select"},
                             {"decode", "decode, layer 1"}};

class FaultAt : public ::testing::TestWithParam<Place> {
 protected:
  FaultyOutcome run(const std::string& mode, double allowed_s) {
    FaultyRun::Options options;
    options.timeout_s = kDeadlineS;
    FaultyRun run(GetParam().doing, mode, options);
    FaultyOutcome outcome = run.wait();
    expect_end(outcome, allowed_s);
    const bool loading = std::string(GetParam().name) == "load";
    EXPECT_EQ(finished(run), loading ? std::set<std::string>{} : std::set<std::string>{"p0"});
    return outcome;
  }
};

TEST_P(FaultAt, AKilledRank) {
  FaultyOutcome ended = run("kill", kEndS);
  expect_text(ended, "signal 9 (Killed)");
  // The survivor waits for it in the same place.
  expect_text(ended, fmt::format("rank 0, {}, all_", GetParam().doing));
  expect_text(ended, "bytes: ended by the launcher");
}

TEST_P(FaultAt, AStoppedRank) {
  FaultyOutcome ended = run("stop", kDeadlineS + kEndS);
  expect_text(ended, fmt::format("rank 0, {}: all_", GetParam().doing));
  expect_text(ended, "did not end within 2 s: another rank of the group has failed, hangs, or makes another call");
}

TEST_P(FaultAt, ACallOfAnotherSize) {
  FaultyOutcome ended = run("mismatch", kEndS);
  expect_text(ended, fmt::format("rank 0, {}: call ", GetParam().doing));
  expect_text(ended, "differs: rank 0 makes all_");
}

INSTANTIATE_TEST_SUITE_P(Places, FaultAt, ::testing::ValuesIn(kPlaces),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace restkv
