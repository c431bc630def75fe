// Which device a run's ranks compute on.
#pragma once

#include <memory>
#include <string>

#include "dist/base/context.h"
#include "dist/comm/mpi_runtime.h"
#include "launch/config/run_config.h"
#include "launch/run/log.h"

namespace restkv {

/// `auto`: the GPU when this process sees one, else the CPU. Throws InputError when a GPU is asked for and there is
/// none, and for more than one rank on GPUs.
Device resolve_device(const RunConfig& config, int ranks);

/// The device for which a run is planned: as above, but it need not be there.
Device planned_device(const RunConfig& config);

/// This rank's context: its device (GPU `local rank` of its host), its share of the host's threads. Collective; throws
/// AgreedFailure on all ranks.
std::unique_ptr<Context> make_context(const MpiRuntime& mpi, Communicator& world, const RunConfig& config, Log& log);

/// Bytes that this rank's device can still give: of the GPU, or of the host (0: unknown).
int64_t available_on(const Context& ctx);

/// Ranks that take from what available_on() says: all of this host, or on a GPU this one.
int ranks_sharing(const Context& ctx, const MpiRuntime& mpi);

/// "NVIDIA H200 (...)" or the CPU's model.
std::string device_name(const Context& ctx);

}  // namespace restkv
