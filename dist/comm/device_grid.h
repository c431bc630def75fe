// The process grid of ranks whose device is known: collectives on the memory of that device.
#pragma once

#include <memory>

#include "dist/base/context.h"
#include "dist/comm/mpi_runtime.h"
#include "dist/comm/process_grid.h"

namespace restkv {

struct GridOptions {
  int sequence = 1;
  int tensor = 1;
  double timeout_s = 0.0;    ///< of the start of NCCL and of every collective on GPUs; 0: none
  bool check_calls = false;  ///< GPUs: the ranks compare their calls first, over their hosts (checked_communicator.h)
  int max_blocks = 0;        ///< GPUs: NcclOptions::max_blocks
  MpiRuntime::Wrapper wrap;  ///< GPUs: what the world is wrapped in, for tests; `control` comes wrapped
};

/// Over the ranks of `control`, which moves host memory. On CPU ranks it is also the world; on GPU ranks world,
/// sequence and tensor group are NCCL's, on `ctx`'s stream, and `ctx` must outlive the grid. Collective over `control`;
/// throws InputError when sequence x tensor is not its size.
std::unique_ptr<ProcessGrid> make_device_grid(std::unique_ptr<Communicator> control, Context& ctx,
                                              const GridOptions& options);

}  // namespace restkv
