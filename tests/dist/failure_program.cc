// A program that fails in the way its first argument names; failure_test.cc starts it with mpirun and looks at how
// the run ends. Ranks work in the group "sequence", all but rank 1 without fault.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "dist/base/error.h"
#include "dist/comm/mpi_runtime.h"
#include "dist/comm/process_grid.h"
#include "tests/dist/faulty_communicator.h"

namespace restkv {
namespace {

using testing_support::Fault;
using testing_support::FaultyCommunicator;

// The test measures from here how long the other ranks live on.
void say_when() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  std::printf("failed at %.3f\n", std::chrono::duration<double>(now).count());
  std::fflush(stdout);
}

void sleep_for_minutes() {
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(60));
}

Fault fault_of(const std::string& mode) {
  Fault fault;
  fault.at_call = 3;
  if (mode == "hang") fault.action = sleep_for_minutes;
  if (mode == "hang_hard")  // deaf to polite signals, busy
    fault.action = [] {
      ::signal(SIGTERM, SIG_IGN);
      for (volatile bool deaf = true; deaf;) {
      }
    };
  if (mode == "input_error") fault.action = [] { fail_input("prompt.jsonl line 3: no text"); };
  if (mode == "failure") fault.action = [] { fail_runtime("the disk caught fire"); };
  if (mode == "kill") fault.action = [] { ::kill(::getpid(), SIGKILL); };
  if (mode == "segv") fault.action = [] { ::raise(SIGSEGV); };
  if (mode == "exit") fault.action = [] { ::_exit(7); };
  if (mode == "exit_zero") fault.action = [] { ::_exit(0); };
  if (mode == "longer" || mode == "checked_longer") fault.extra_elements = 1000;
  if (fault.action)
    fault.action = [action = fault.action] {
      say_when();
      action();
    };
  if (mode == "checked_skip") fault.at_call = -1;
  return fault;
}

void work(Communicator& group, const std::string& call) {
  const int64_t n = 250;
  std::vector<float> own(2000, 1.0f), all(2000 * group.size());
  std::vector<int64_t> counts(group.size(), n), displacements(group.size());
  for (int r = 0; r < group.size(); ++r) displacements[r] = 2000 * r;
  for (int step = 0; step < 6; ++step) {
    if (call == "all_gather") group.all_gather(own.data(), all.data(), n, DType::f32);
    if (call == "all_gather_v") group.all_gather_v(own.data(), all.data(), counts, displacements, DType::f32);
    if (call == "all_reduce") group.all_reduce(own.data(), n, DType::f32, ReduceOp::max);
    if (call == "broadcast") group.broadcast(own.data(), n, DType::f32, 1);
    if (call == "barrier") group.barrier();
    if (call == "send_recv") {
      int to = (group.rank() + 1) % group.size(), from = (group.rank() + group.size() - 1) % group.size();
      group.send_recv(own.data(), n, to, all.data(), n, from, DType::f32);
    }
  }
}

int run(int argc, char** argv) {
  MpiRuntime runtime(&argc, &argv);
  const std::string mode = argv[1], call = argc > 2 ? argv[2] : "all_gather";
  std::printf("pid %d\n", static_cast<int>(::getpid()));
  std::fflush(stdout);
  try {
    std::unique_ptr<Communicator> world = runtime.world(mode == "none" ? 60.0 : 0.5, mode.starts_with("checked"));
    world->barrier();
    if (mode == "grid") ProcessGrid(std::move(world), runtime.size() + 1, 1);
    std::unique_ptr<Communicator> group = world->split(0, world->rank(), "sequence");
    if (runtime.rank() == 1) group = std::make_unique<FaultyCommunicator>(std::move(group), fault_of(mode));
    if (mode == "checked_skip" && runtime.rank() == 1) group->barrier();
    work(*group, call);
    if (mode == "late" && runtime.rank() == 1) {
      say_when();
      sleep_for_minutes();
    }
  } catch (const Error& e) {
    runtime.abort(e.what(), e.exit_code());
  }
  return 0;
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) { return restkv::run(argc, argv); }
