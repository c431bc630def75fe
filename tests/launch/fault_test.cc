// A rank that fails while weights are loaded, in prefill, in eviction or in decode: all ranks end in time, the message
// says where, and no finished result is lost.
#include <gtest/gtest.h>

#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

using testing::Outcome;
using testing::TinyModel;

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

struct FaultyRun {
  Outcome outcome;
  double seconds = 0.0;  // from the failure to the end
  std::vector<int> pids;
};

FaultyRun start(const TinyModel& model, const Place& place, const std::string& mode) {
  std::string config = model.config(3, 300,
                                    "generate: {max_new_tokens: 6, ignore_eos: true}\ncache: {budget: 64}\n"
                                    "parallel: {device: cpu, threads: 1}\n");
  FaultyRun run;
  run.outcome = testing::run_command_line(
      fmt::format("exec env OMPI_MCA_odls_base_sigkill_timeout=1 {} -np 2 {} {} '{}' {} parallel.timeout_s={}",
                  RESTKV_MPIRUN, RESTKV_FAULT_PROGRAM, config, place.doing, mode, kDeadlineS));
  double end = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(), failed = 0.0;
  std::istringstream lines(run.outcome.err);
  for (std::string line; std::getline(lines, line);) {
    if (int pid = 0; std::sscanf(line.c_str(), "pid %d", &pid) == 1) run.pids.push_back(pid);
    std::sscanf(line.c_str(), "failed at %lf", &failed);
  }
  EXPECT_GT(failed, 0.0) << "no fault at " << place.doing << "\n" << run.outcome.err;
  run.seconds = end - failed;
  return run;
}

/// A stopped process still is one; one that ended and that nobody has waited for is not.
bool alive(int pid) {
  std::string status = testing::read_file(fmt::format("/proc/{}/stat", pid));
  size_t name_end = status.rfind(") ");
  return name_end != std::string::npos && status.size() > name_end + 2 && status[name_end + 2] != 'Z';
}

class FaultAt : public ::testing::TestWithParam<Place> {
 protected:
  void expect_end(const FaultyRun& run, double allowed_s) {
    EXPECT_NE(run.outcome.exit_code, 0) << run.outcome.err;
    EXPECT_LT(run.seconds, allowed_s) << run.outcome.err;
    EXPECT_EQ(run.pids.size(), 2u) << run.outcome.err;
    // The launcher may return a moment before its last rank is gone.
    for (int i = 0; i < 200; ++i)
      if (std::any_of(run.pids.begin(), run.pids.end(), alive)) ::usleep(10000);
    for (int pid : run.pids) EXPECT_FALSE(alive(pid)) << run.outcome.err;
    const bool loading = std::string(GetParam().name) == "load";
    if (loading && !std::filesystem::exists(model_.results())) return;
    EXPECT_EQ(testing::ids_once(model_.results()), loading ? std::set<std::string>{} : std::set<std::string>{"p0"});
  }
  void expect_text(const FaultyRun& run, const std::string& words) {
    EXPECT_NE(run.outcome.err.find(words), std::string::npos) << "expected: " << words << "\n" << run.outcome.err;
  }
  TinyModel model_;
};

TEST_P(FaultAt, AKilledRank) {
  FaultyRun run = start(model_, GetParam(), "kill");
  expect_end(run, kEndS);
  expect_text(run, "signal 9 (Killed)");
  // The survivor waits for it in the same place.
  expect_text(run, fmt::format("rank 0, {}, all_", GetParam().doing));
  expect_text(run, "bytes: ended by the launcher");
}

TEST_P(FaultAt, AStoppedRank) {
  FaultyRun run = start(model_, GetParam(), "stop");
  expect_end(run, kDeadlineS + kEndS);
  expect_text(run, fmt::format("rank 0, {}: all_", GetParam().doing));
  expect_text(run, "did not end within 2 s: another rank of the group has failed, hangs, or makes another call");
}

TEST_P(FaultAt, ACallOfAnotherSize) {
  FaultyRun run = start(model_, GetParam(), "mismatch");
  expect_end(run, kEndS);
  expect_text(run, fmt::format("rank 0, {}: call ", GetParam().doing));
  expect_text(run, "differs: rank 0 makes all_");
}

INSTANTIATE_TEST_SUITE_P(Places, FaultAt, ::testing::ValuesIn(kPlaces),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace restkv
