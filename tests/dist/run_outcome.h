// A program started by mpirun that is expected to fail, and how it ended.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <future>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "dist/base/error.h"

namespace restkv::testing_support {

struct Outcome {
  int exit_code = -1;
  double seconds = 0.0;  // from the failure (or from the start, where the program does not tell) to the end
  std::string text;      // standard output and error of all ranks
  std::vector<int> pids;

  bool says(const std::string& words) const { return text.find(words) != std::string::npos; }
  int times(const std::string& words) const {
    int n = 0;
    for (size_t at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++n;
    return n;
  }
};

inline double now_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// Starts `program arguments` on so many ranks and waits for its end.
inline Outcome run(const std::string& mpirun, const std::string& program, int ranks, const std::string& arguments) {
  std::string command = fmt::format("timeout -s KILL 60 {} -np {} {} {} 2>&1", mpirun, ranks, program, arguments);
  Outcome outcome;
  double begin = now_s();
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) {
    ADD_FAILURE() << "cannot start " << command;
    return outcome;
  }
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) outcome.text.append(buffer, n);
  int status = ::pclose(pipe);
  double end = now_s();
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::istringstream lines(outcome.text);
  for (std::string line; std::getline(lines, line);) {
    if (int pid = 0; std::sscanf(line.c_str(), "pid %d", &pid) == 1) outcome.pids.push_back(pid);
    std::sscanf(line.c_str(), "failed at %lf", &begin);
  }
  outcome.seconds = end - begin;
  return outcome;
}

// Several runs side by side: each mostly waits. Outcomes in the order of the arguments.
inline std::vector<Outcome> run_together(const std::string& mpirun, const std::string& program, int ranks,
                                         const std::vector<std::string>& arguments) {
  std::vector<std::future<Outcome>> running;
  for (const std::string& a : arguments)
    running.push_back(
        std::async(std::launch::async, [&mpirun, &program, ranks, a] { return run(mpirun, program, ranks, a); }));
  std::vector<Outcome> outcomes;
  for (auto& r : running) outcomes.push_back(r.get());
  return outcomes;
}

// A process that runs: not gone, and no corpse that nobody has fetched yet.
inline bool runs(int pid) {
  FILE* stat = std::fopen(fmt::format("/proc/{}/stat", pid).c_str(), "r");
  if (stat == nullptr) return false;
  char state = 'X';
  int fields = std::fscanf(stat, "%*d (%*[^)]) %c", &state);
  std::fclose(stat);
  return fields == 1 && state != 'Z' && state != 'X';
}

inline void expect_all_ended(const Outcome& outcome, int ranks, double allowed_s) {
  EXPECT_NE(outcome.exit_code, 0) << outcome.text;
  EXPECT_LT(outcome.seconds, allowed_s) << outcome.text;
  EXPECT_EQ(outcome.pids.size(), static_cast<size_t>(ranks)) << outcome.text;
  for (int pid : outcome.pids) {
    // A killed process is gone when it next gets a core, which on a busy machine may be after mpirun's own end.
    for (int i = 0; i < 100 && runs(pid); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_FALSE(runs(pid)) << pid << " still runs\n" << outcome.text;
  }
}

}  // namespace restkv::testing_support
