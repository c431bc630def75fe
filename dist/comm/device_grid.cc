#include "dist/comm/device_grid.h"

#include <utility>

#include "dist/comm/checked_communicator.h"
#include "dist/comm/nccl_communicator.h"

namespace restkv {

std::unique_ptr<ProcessGrid> make_device_grid(std::unique_ptr<Communicator> control, Context& ctx,
                                              const GridOptions& options) {
  if (ctx.device() == Device::cpu)
    return std::make_unique<ProcessGrid>(std::move(control), options.sequence, options.tensor);
  ProcessGrid::check_layout(control->size(), options.sequence, options.tensor);  // before NCCL's long start
  NcclOptions nccl;
  nccl.timeout_s = options.timeout_s;
  nccl.on_expired = [](const std::string&) { MpiRuntime::end_all_ranks(1); };
  nccl.max_blocks = options.max_blocks;
  auto world = make_nccl_communicator(ctx, *control, nccl);
  if (options.check_calls)
    world = make_checked_communicator(std::move(world), control->split(0, control->rank(), "world"));
  if (options.wrap) world = options.wrap(std::move(world));
  return std::make_unique<ProcessGrid>(std::move(world), options.sequence, options.tensor, std::move(control));
}

}  // namespace restkv
