// Which device a run's ranks compute on.
#pragma once

#include <memory>
#include <string>

#include "dist/base/context.h"
#include "dist/comm/mpi_runtime.h"
#include "launch/config/run_config.h"
#include "launch/run/log.h"

namespace restkv {

/// The device for which a run is planned. `auto`: the GPU when this process sees one, else the CPU.
Device planned_device(const RunConfig& config);

/// This rank's context: its device (GPU `local rank` of those it sees), its share of the host's threads. `world` is all
/// ranks, on host memory. Collective; throws AgreedFailure on all ranks when a GPU is asked for and there is none, when
/// only some ranks have one, and when two would share one (compared by UUID).
std::unique_ptr<Context> make_context(const MpiRuntime& mpi, Communicator& world, const RunConfig& config, Log& log);

/// Bytes that this rank's device can still give: of the GPU, or of the host (0: unknown).
int64_t available_on(const Context& ctx);

/// Ranks that take from what available_on() says: all of this host, or on a GPU this one.
int ranks_sharing(const Context& ctx, const MpiRuntime& mpi);

/// "NVIDIA H200 (...)" or the CPU's model.
std::string device_name(const Context& ctx);

}  // namespace restkv
