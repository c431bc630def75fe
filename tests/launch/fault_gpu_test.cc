// A rank of a run on GPUs that fails while weights are loaded, in prefill, in eviction or in decode: all ranks end in
// time, the message says where, and no finished result is lost. Skips with fewer than two GPUs.
#include <gtest/gtest.h>

#include "dist/base/gpu_runtime.h"
#include "tests/launch/faulty_run.h"

namespace restkv {
namespace {

using testing::expect_end;
using testing::expect_text;
using testing::FaultyOutcome;
using testing::FaultyRun;
using testing::finished;

constexpr double kDeadlineS = 20.0;  // of a call: NCCL's start has to fit into it, of several programs at once
constexpr double kEndS = 10.0;       // all ranks have ended this long after the failure, or after the deadline

const std::vector<std::string> kInLayers = {"prefill, layer 1, exchange", "prefill, layer 1, scoring",
                                            "prefill, layer 0, select"};

class GpuFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    if (GpuRuntime::count() < 2) GTEST_SKIP() << "needs 2 GPUs, sees " << GpuRuntime::count();
  }

  /// One run per place, side by side on the same two GPUs.
  std::vector<FaultyOutcome> run(const std::vector<std::string>& places, const std::string& mode, double allowed_s) {
    FaultyRun::Options options;
    options.device = "gpu";
    options.new_tokens = 3700;  // decoding lasts longer than the start of the next prompt
    options.timeout_s = kDeadlineS;
    std::vector<std::unique_ptr<FaultyRun>> runs;
    runs.reserve(places.size());
    for (const std::string& place : places) runs.push_back(std::make_unique<FaultyRun>(place, mode, options));
    std::vector<FaultyOutcome> outcomes;
    for (size_t i = 0; i < runs.size(); ++i) {
      SCOPED_TRACE(mode + " at " + places[i]);
      outcomes.push_back(runs[i]->wait());
      expect_end(outcomes.back(), allowed_s);
      const std::set<std::string> ids = finished(*runs[i]);
      EXPECT_EQ(ids.count("p0"), places[i] == "load" ? 0u : 1u);
      EXPECT_EQ(ids.count("p2"), 0u) << "the run came to its end";
    }
    return outcomes;
  }

  static std::vector<std::string> with(std::vector<std::string> more) {
    more.insert(more.end(), kInLayers.begin(), kInLayers.end());
    return more;
  }
};

TEST_F(GpuFaults, AKilledRank) {
  for (const FaultyOutcome& ended : run(with({"load", "decode"}), "kill", kEndS))
    expect_text(ended, "signal 9 (Killed)");
}

TEST_F(GpuFaults, AStoppedRank) {
  const std::vector<std::string> places = with({"load", "decode"});
  const std::vector<FaultyOutcome> ended = run(places, "stop", kDeadlineS + kEndS);
  for (size_t i = 0; i < places.size(); ++i) {
    SCOPED_TRACE(places[i]);
    expect_text(ended[i], "rank 0, " + places[i]);
    expect_text(ended[i],
                "did not end within 20 s: another rank of the group has failed, hangs, or makes another call");
  }
}

// NCCL does not compare what its ranks ask for. Either waits for bytes that never come.
TEST_F(GpuFaults, ACallOfAnotherSize) {
  const std::vector<std::string> places = {"load", "prefill, layer 1, exchange"};
  const std::vector<FaultyOutcome> ended = run(places, "mismatch", kDeadlineS + kEndS);
  expect_text(ended[0], "rank 0, load: call ");
  expect_text(ended[0], "differs: rank 0 makes all_");
  expect_text(ended[1], "did not end within 20 s: another rank of the group has failed, hangs, or makes another call");
}

}  // namespace
}  // namespace restkv
