// A run of two ranks, of which rank 1 fails as fault_program is told.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv::testing {

struct FaultyOutcome {
  Outcome outcome;
  double seconds = 0.0;  ///< from the failure to the end
  std::vector<int> pids;
};

/// Started by the constructor; several may run at once.
class FaultyRun {
 public:
  struct Options {
    std::string device = "cpu";
    int new_tokens = 6;
    double timeout_s = 2.0;
  };

  /// `doing`: where rank 1 fails; `mode`: kill, stop or mismatch. There are three prompts, p0 to p2.
  FaultyRun(const std::string& doing, const std::string& mode, const Options& options) : doing_(doing) {
    std::string config =
        model_.config(3, 300,
                      fmt::format("generate: {{max_new_tokens: {}, ignore_eos: true}}\ncache: {{budget: 64}}\n"
                                  "parallel: {{device: {}, threads: 1, timeout_s: {}}}\n",
                                  options.new_tokens, options.device, options.timeout_s));
    process_ =
        std::make_unique<Process>(fmt::format("exec env OMPI_MCA_odls_base_sigkill_timeout=1 {} -np 2 {} {} '{}' {}",
                                              RESTKV_MPIRUN, RESTKV_FAULT_PROGRAM, config, doing, mode));
  }

  FaultyOutcome wait() {
    FaultyOutcome run;
    run.outcome = process_->wait();
    const double end = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    double failed = 0.0, started = run.outcome.seconds;
    std::istringstream lines(run.outcome.err);
    for (std::string line; std::getline(lines, line);) {
      if (int pid = 0; std::sscanf(line.c_str(), "pid %d", &pid) == 1) run.pids.push_back(pid);
      std::sscanf(line.c_str(), "failed at %lf", &failed);
    }
    EXPECT_GT(failed, 0.0) << "no fault at " << doing_ << " within " << started << " s\n" << run.outcome.err;
    run.seconds = end - failed;
    return run;
  }

  const TinyModel& model() const { return model_; }

 private:
  TinyModel model_;
  std::string doing_;
  std::unique_ptr<Process> process_;
};

/// A stopped process still is one; one that ended and that nobody has waited for is not.
inline bool alive(int pid) {
  std::string status = read_file(fmt::format("/proc/{}/stat", pid));
  size_t name_end = status.rfind(") ");
  return name_end != std::string::npos && status.size() > name_end + 2 && status[name_end + 2] != 'Z';
}

/// Both ranks ended, with a failure, at most `allowed_s` after the fault.
inline void expect_end(const FaultyOutcome& run, double allowed_s) {
  EXPECT_NE(run.outcome.exit_code, 0) << run.outcome.err;
  EXPECT_LT(run.seconds, allowed_s) << run.outcome.err;
  EXPECT_EQ(run.pids.size(), 2u) << run.outcome.err;
  // The launcher may return a moment before its last rank is gone.
  for (int i = 0; i < 200; ++i)
    if (std::any_of(run.pids.begin(), run.pids.end(), alive)) ::usleep(10000);
  for (int pid : run.pids) EXPECT_FALSE(alive(pid)) << run.outcome.err;
}

inline void expect_text(const FaultyOutcome& run, const std::string& words) {
  EXPECT_NE(run.outcome.err.find(words), std::string::npos) << "expected: " << words << "\n" << run.outcome.err;
}

/// Ids of the results that are there.
inline std::set<std::string> finished(const FaultyRun& run) {
  const std::string& path = run.model().results();
  return std::filesystem::exists(path) ? ids_once(path) : std::set<std::string>{};
}

}  // namespace restkv::testing
