#include "launch/run/device.h"

#include <fstream>

#include "dist/base/error.h"
#include "launch/run/threads.h"
#include "launch/run/together.h"

namespace restkv {

Device planned_device(const RunConfig& config) {
  switch (config.parallel.device) {
    case DeviceChoice::cpu: return Device::cpu;
    case DeviceChoice::gpu: return Device::gpu;
    case DeviceChoice::automatic: break;
  }
  return GpuRuntime::count() > 0 ? Device::gpu : Device::cpu;
}

Device resolve_device(const RunConfig& config, int ranks) {
  Device device = planned_device(config);
  if (device == Device::cpu) return device;
  if (GpuRuntime::count() == 0)
    fail_input(
        "{}: parallel.device is gpu, but this process sees no GPU (or this build has no CUDA); expected "
        "parallel.device: "
        "cpu, or a build with CUDA on a host with a GPU",
        config.file);
  if (ranks > 1)
    fail_input(
        "{}: parallel.device is {} and the run has {} ranks, but ranks on GPUs cannot exchange data yet; expected one "
        "rank, or parallel.device: cpu",
        config.file, config.parallel.device == DeviceChoice::gpu ? "gpu" : "auto (this process sees a GPU)", ranks);
  return device;
}

std::unique_ptr<Context> make_context(const MpiRuntime& mpi, Communicator& world, const RunConfig& config, Log& log) {
  ThreadShare share = share_threads(world);
  if (share.wasteful && config.parallel.threads == 0 && mpi.local_rank() == 0)
    log.warn(
        "the launcher bound the {} ranks of this host to {} cores in all; mpirun --bind-to none lets them use more",
        share.host_ranks, share.host_cores);
  std::unique_ptr<Context> ctx;
  run_together(world, [&] {
    Context::Options options;
    options.device = resolve_device(config, world.size());
    options.threads = static_cast<int>(config.parallel.threads > 0 ? config.parallel.threads : share.threads);
    options.device_index = mpi.local_rank();
    ctx = std::make_unique<Context>(options);
  });
  return ctx;
}

int64_t available_on(const Context& ctx) { return ctx.gpu() != nullptr ? ctx.gpu()->free_bytes() : available_memory(); }

int ranks_sharing(const Context& ctx, const MpiRuntime& mpi) { return ctx.gpu() != nullptr ? 1 : mpi.local_size(); }

std::string device_name(const Context& ctx) {
  if (ctx.gpu() != nullptr) return ctx.gpu()->describe();
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name"))
      if (size_t at = line.find(": "); at != std::string::npos) return line.substr(at + 2);
  return "unknown CPU";
}

}  // namespace restkv
