#include "launch/run/on_ranks.h"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "dist/base/activity.h"
#include "launch/run/together.h"

namespace restkv {
namespace {

int print_error(const std::string& text, int exit_code) {
  std::fflush(stdout);
  fmt::print(stderr, "restkv: error: {}\n", text);
  return exit_code;
}

/// An error that the other ranks do not know of: they wait for this one in a collective.
int end_all(MpiRuntime& mpi, const std::string& text, int exit_code) {
  if (mpi.size() == 1) {
    // What the user can mend does not depend on where it was found.
    const std::string doing = exit_code == 2 ? "" : describe(activity());
    return print_error(doing.empty() ? text : doing + ": " + text, exit_code);
  }
  mpi.abort(text, exit_code);
}

int guarded(MpiRuntime& mpi, const std::function<int(MpiRuntime&)>& body) {
  try {
    return body(mpi);
  } catch (const AgreedFailure& e) {
    return e.speaks() ? print_error(e.what(), e.exit_code()) : e.exit_code();
  } catch (const Error& e) {
    return end_all(mpi, e.what(), e.exit_code());
  } catch (const std::bad_alloc&) {
    return end_all(mpi, "out of memory", 1);
  } catch (const std::exception& e) {
    return end_all(mpi, e.what(), 1);
  }
}

}  // namespace

int run_on_ranks(const std::function<int(MpiRuntime&)>& body) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is to look like a full disk, not end the process
  try {
    MpiRuntime mpi(nullptr, nullptr);
    return guarded(mpi, body);
  } catch (const Error& e) {
    return print_error(e.what(), e.exit_code());
  }
}

}  // namespace restkv
