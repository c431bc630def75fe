// A program that fails in the way its first argument names; failure_test.cc starts it with mpirun and looks at how
// the run ends. Ranks work in the group "sequence", all but rank 1 without fault.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dist/base/activity.h"
#include "dist/base/context.h"
#include "dist/base/error.h"
#include "dist/comm/device_grid.h"
#include "dist/comm/mpi_runtime.h"
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

constexpr int kCalls = 6;  // that work() makes

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
  if (mode == "stop") fault.action = [] { ::kill(::getpid(), SIGSTOP); };
  if (mode == "longer" || mode == "checked_longer" || mode == "longer_last") fault.extra_elements = 1000;
  if (mode == "longer_last") fault.at_call = kCalls - 1;  // with calls behind it, the ranks' messages could mix
  if (fault.extra_elements > 0) fault.action = [] {};
  if (fault.action)
    fault.action = [action = fault.action] {
      say_when();
      action();
    };
  if (mode == "checked_skip") fault.at_call = -1;
  return fault;
}

void work(Context& ctx, Communicator& group, const std::string& call) {
  const int64_t n = 250;
  Tensor own = ctx.zeros(DType::f32, {2000}), all = ctx.zeros(DType::f32, {2000 * group.size()});
  std::vector<int64_t> counts(group.size(), n), displacements(group.size());
  for (int r = 0; r < group.size(); ++r) displacements[r] = 2000 * r;
  for (int step = 0; step < kCalls; ++step) {
    if (call == "all_gather") group.all_gather(own.raw(), all.raw(), n, DType::f32);
    if (call == "all_gather_v") group.all_gather_v(own.raw(), all.raw(), counts, displacements, DType::f32);
    if (call == "all_reduce") group.all_reduce(own.raw(), n, DType::f32, ReduceOp::max);
    if (call == "broadcast") group.broadcast(own.raw(), n, DType::f32, 1);
    if (call == "barrier") group.barrier();
    if (call == "send_recv") {
      int to = (group.rank() + 1) % group.size(), from = (group.rank() + group.size() - 1) % group.size();
      group.send_recv(own.raw(), n, to, all.raw(), n, from, DType::f32);
    }
  }
  ctx.synchronize();
}

// Rank 1 fails between two launches of a graph.
void work_in_graph(Context& ctx, Communicator& group, const Fault& fault) {
  Tensor own = ctx.zeros(DType::f32, {2000});
  auto graph = ctx.gpu()->capture([&] { group.all_reduce(own.raw(), 250, DType::f32, ReduceOp::sum); });
  for (int step = 0; step < kCalls; ++step) {
    if (step == fault.at_call && fault.action) fault.action();
    ctx.gpu()->launch(graph.get());
  }
  ctx.synchronize();
}

struct Arguments {
  std::string mode, call;
  bool gpu;
  double deadline_s;
};

void fail_on_cue(MpiRuntime& runtime, const Arguments& arguments) {
  const auto& [mode, call, gpu, deadline_s] = arguments;
  const bool checked = mode.starts_with("checked");
  Context ctx({gpu ? Device::gpu : Device::cpu, 1, runtime.local_rank()});
  std::unique_ptr<Communicator> control = runtime.world(deadline_s, checked && !gpu);
  control->barrier();
  GridOptions options;
  options.sequence = runtime.size() + (mode == "grid" ? 1 : 0);
  options.timeout_s = deadline_s;
  options.check_calls = checked;
  auto grid = make_device_grid(std::move(control), ctx, options);
  std::unique_ptr<Communicator> group = grid->world().split(0, runtime.rank(), "sequence");
  const bool faulty = runtime.rank() == 1;
  std::optional<ActivityScope> doing;  // CPU ranks: the message without an activity
  if (gpu) doing.emplace("work");
  if (call == "graph") return work_in_graph(ctx, *group, faulty ? fault_of(mode) : Fault());
  if (faulty) group = std::make_unique<FaultyCommunicator>(std::move(group), fault_of(mode));
  if (mode == "checked_skip" && faulty) group->barrier();
  work(ctx, *group, call);
  if (mode == "throw_waiting" && faulty) {  // with a call on the device that will never end
    Tensor own = ctx.zeros(DType::f32, {2000});
    std::shared_ptr<void> pinned = gpu ? ctx.gpu()->allocate_pinned(4096) : nullptr;
    group->all_reduce(own.raw(), 2000, DType::f32, ReduceOp::sum);
    say_when();
    fail_runtime("the disk caught fire");
  }
  if ((mode == "late" && faulty) || (mode == "throw_waiting" && !faulty)) {
    if (faulty) say_when();
    sleep_for_minutes();
  }
}

// MODE [CALL [gpu]]
int run(int argc, char** argv) {
  MpiRuntime runtime(&argc, &argv);
  Arguments arguments{argv[1], argc > 2 ? argv[2] : "all_gather", argc > 3, 0.5};
  // On GPUs NCCL's start has to fit into it.
  if (arguments.gpu) arguments.deadline_s = 15.0;
  if (arguments.mode == "none") arguments.deadline_s = 60.0;
  std::printf("pid %d\n", static_cast<int>(::getpid()));
  std::fflush(stdout);
  try {
    fail_on_cue(runtime, arguments);
  } catch (const Error& e) {
    runtime.abort(e.what(), e.exit_code());
  }
  return 0;
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) { return restkv::run(argc, argv); }
