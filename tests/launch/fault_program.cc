// restkv run, but rank 1 fails in the way and at the place that the arguments name:
//   fault_program CONFIG PLACE kill|stop|mismatch [key=value]...
// PLACE is what a rank is doing (dist/base/activity.h) when it makes the call that fails: "prefill, layer 1, exchange".
// The fault waits until one result is in the output file. GPU ranks decode without calls that could fail: there a
// thread kills or stops its rank a moment after the first result.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "dist/base/activity.h"
#include "dist/comm/checked_communicator.h"
#include "launch/run/on_ranks.h"
#include "launch/run/runner.h"
#include "tests/dist/faulty_communicator.h"

namespace restkv {
namespace {

using testing_support::Fault;
using testing_support::FaultyCommunicator;

Fault fault_of(const std::string& place, const std::string& mode, const std::string& results) {
  Fault fault;
  fault.when = [place, results] {
    if (describe(activity()) != place) return false;
    std::ifstream in(results);
    std::string line;
    // Weights are loaded before there is any result.
    return place == "load" || static_cast<bool>(std::getline(in, line));
  };
  fault.action = [mode] {
    auto now = std::chrono::system_clock::now().time_since_epoch();
    std::fprintf(stderr, "failed at %.3f\n", std::chrono::duration<double>(now).count());
    if (mode == "kill") ::kill(::getpid(), SIGKILL);
    if (mode == "stop") ::kill(::getpid(), SIGSTOP);
  };
  if (mode == "mismatch") fault.extra_elements = 1000;
  return fault;
}

// While later prompts are decoded, if they are long.
void fail_while_decoding(const Fault& fault, const std::string& results) {
  std::thread([fault, results] {
    for (std::string line; line.empty(); std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
      std::ifstream in(results);
      std::getline(in, line);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    fault.action();
  }).detach();
}

int run(MpiRuntime& mpi, const std::vector<std::string>& arguments) {
  std::vector<std::string> sets(arguments.begin() + 3, arguments.end());
  std::fprintf(stderr, "pid %d\n", static_cast<int>(::getpid()));
  const RunConfig config = load_run_config(arguments[0], sets);
  const Fault fault = fault_of(arguments[1], arguments[2], config.output.file);
  const bool gpu = config.parallel.device == DeviceChoice::gpu;
  if (gpu && arguments[1] == "decode" && mpi.rank() == 1) fail_while_decoding(fault, config.output.file);
  int worlds = 0;
  mpi.wrap_world([&](std::unique_ptr<Communicator> world) -> std::unique_ptr<Communicator> {
    // The third one moves memory of GPUs; its calls are not compared.
    if (arguments[2] == "mismatch" && worlds++ < 2) world = make_checked_communicator(std::move(world));
    if (mpi.rank() != 1) return world;
    return std::make_unique<FaultyCommunicator>(std::move(world), fault);
  });
  Runner(mpi, arguments[0], sets).run();
  return 0;
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() < 3) return 2;
  return restkv::run_on_ranks([&](restkv::MpiRuntime& mpi) { return restkv::run(mpi, arguments); });
}
