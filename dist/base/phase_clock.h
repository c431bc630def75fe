// Where the time of a run goes: seconds per named phase, of the host's clock on CPU ranks and of the device's on GPUs,
// where taking a time never makes the host wait before the end.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/stopwatch.h"

namespace restkv {

struct PhaseTime {
  std::string name;
  double seconds = 0.0;
  int64_t bytes = 0;  ///< sent to other ranks in this phase
  /// Where phases of several ranks are combined: of the rank that took least. Phases with an exchange contain the wait
  /// for ranks that come to it later; the one that comes last does not wait.
  double least_seconds = 0.0;
};

/// Adds `part` to `total`, phase by phase; new ones come last.
void add_phases(std::vector<PhaseTime>& total, const std::vector<PhaseTime>& part);

/// One phase runs at a time. On GPUs each phase is also a range for profilers.
class PhaseClock {
 public:
  explicit PhaseClock(Context& ctx) : ctx_(ctx) {}
  ~PhaseClock();
  PhaseClock(const PhaseClock&) = delete;
  PhaseClock& operator=(const PhaseClock&) = delete;

  /// Ends the phase that runs, if any, and begins `name` (a literal; it is also the activity's step). Nothing to do
  /// when it runs already.
  void start(const char* name);
  void stop();
  /// The phase that runs, or runs no more but ran last: what an error message names.
  const char* current() const { return current_; }
  /// Adds to the bytes of a phase.
  void add_bytes(const char* name, int64_t bytes);

  /// Stops, and returns the seconds of every phase in the order of their first use. Waits for the device.
  std::vector<PhaseTime> finish();

 private:
  PhaseTime& phase(const char* name);
  struct Span {
    const char* name;
    std::shared_ptr<void> from, to;  // marks on the device's stream
  };

  Context& ctx_;
  const char* current_ = "start";
  bool running_ = false;
  Stopwatch watch_;
  std::vector<Span> spans_;
  std::vector<PhaseTime> phases_;
};

}  // namespace restkv
