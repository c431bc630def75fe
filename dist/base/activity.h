// What this rank is doing: said by the code that does it, read by the messages of a failure or a missed deadline.
#pragma once

#include <cstdint>
#include <string>

namespace restkv {

/// All strings are literals, or outlive what they name. One per thread: ranks that are threads of one process
/// (tests) do not mix.
struct Activity {
  const char* stage = nullptr;  ///< "load", "prefill", "decode"; null outside of all
  int64_t layer = -1;           ///< -1: none
  const char* step = nullptr;   ///< within the layer: "exchange", "scoring"; PhaseClock keeps it
  const char* call = nullptr;   ///< the last call that waits for other ranks, and its bytes; Watchdog::enter keeps it
  int64_t bytes = 0;
};

/// Of the calling thread. On GPUs an error of an earlier kernel shows late: the place is where it was noticed.
Activity& activity();

/// "prefill, layer 3, exchange"; empty outside of all stages.
std::string describe(const Activity& activity);

/// When the launcher ends this rank (SIGTERM: another rank has died, or the user has had enough) it says first what the
/// rank was doing: "rank 0, prefill, layer 3, exchange, all_gather of 4096 bytes: ended by the launcher ...". Then the
/// signal takes its course. For the thread that calls it, once per process.
void report_termination(int rank);

/// Sets the stage for its life, without a layer and step. When an exception leaves it, what was being done stays for
/// the message.
class ActivityScope {
 public:
  explicit ActivityScope(const char* stage);
  ~ActivityScope();
  ActivityScope(const ActivityScope&) = delete;
  ActivityScope& operator=(const ActivityScope&) = delete;

 private:
  Activity before_;
  int exceptions_;
};

}  // namespace restkv
