#include "launch/run/device.h"

#include <unistd.h>

#include <fstream>
#include <vector>

#include "dist/base/error.h"
#include "launch/run/rank_devices.h"
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

namespace {

RankDevice find_device(const RunConfig& config) {
  RankDevice mine;
  mine.seen = GpuRuntime::count();
  mine.gpu = planned_device(config) == Device::gpu && mine.seen > 0;
  ::gethostname(mine.host, sizeof(mine.host) - 1);
  return mine;
}

// Throws (by way of run_together) when the ranks' devices do not fit together.
void compare_devices(Communicator& world, const RunConfig& config, const RankDevice& mine) {
  std::vector<RankDevice> all(static_cast<size_t>(world.size()));
  world.all_gather(&mine, all.data(), sizeof(RankDevice), DType::u8);
  run_together(world, [&] {
    if (std::string text = device_conflict(all, config.parallel.device == DeviceChoice::gpu); !text.empty())
      fail_input("{}: {}", config.file, text);
  });
}

}  // namespace

std::unique_ptr<Context> make_context(const MpiRuntime& mpi, Communicator& world, const RunConfig& config, Log& log) {
  ThreadShare share = share_threads(world);
  if (share.wasteful && config.parallel.threads == 0 && mpi.local_rank() == 0)
    log.warn(
        "the launcher bound the {} ranks of this host to {} cores in all; mpirun --bind-to none lets them use more",
        share.host_ranks, share.host_cores);
  RankDevice mine = find_device(config);
  compare_devices(world, config, mine);
  std::unique_ptr<Context> ctx;
  run_together(world, [&] {
    Context::Options options;
    options.device = planned_device(config);
    if (options.device == Device::gpu && !mine.gpu)
      fail_input(
          "{}: parallel.device is gpu, but no rank sees a GPU (or this build has no CUDA); expected parallel.device: "
          "cpu, or a build with CUDA on hosts with GPUs",
          config.file);
    options.threads = static_cast<int>(config.parallel.threads > 0 ? config.parallel.threads : share.threads);
    // A launcher may hide all GPUs but one from each rank: then all of them see a first one, and the UUIDs differ.
    if (mine.gpu) options.device_index = mpi.local_rank() % static_cast<int>(mine.seen);
    ctx = std::make_unique<Context>(options);
  });
  if (ctx->gpu() != nullptr) {
    ctx->gpu()->uuid().copy(mine.uuid, sizeof(mine.uuid) - 1);
    compare_devices(world, config, mine);
    log.info("{}; {}; {}", ctx->gpu()->describe(), ctx->gpu()->links(), ctx->gpu()->versions());
  }
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
