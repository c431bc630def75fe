// One message from one rank. Before the ranks depend on each other's data, each step runs under run_together: either
// all ranks go on, or all stop alike and the lowest rank that failed says why.
#pragma once

#include <functional>
#include <string>

#include "dist/base/error.h"
#include "dist/comm/communicator.h"

namespace restkv {

/// The end of a step that failed somewhere. Every rank throws it, so every rank can still finalise MPI.
class AgreedFailure : public Error {
 public:
  AgreedFailure(const std::string& text, int exit_code, bool speaks) : Error(text, exit_code), speaks_(speaks) {}
  /// Whether this rank is the one that prints the text.
  bool speaks() const { return speaks_; }

 private:
  bool speaks_;
};

/// Runs `body` on every rank of `world`, then throws AgreedFailure on all of them if it threw on any. `body` must not
/// communicate. Collective.
void run_together(Communicator& world, const std::function<void()>& body);

/// The text of the lowest rank whose text is not empty, on every rank; empty when there is none. Collective.
std::string agree_on_text(Communicator& world, const std::string& text);

/// Throws (on all ranks, by way of run_together) InputError unless `value` is the same on every rank.
void require_equal(Communicator& world, uint64_t value, const std::string& text_when_not);

}  // namespace restkv
