// The Communicator of GPU ranks, over NCCL: device pointers, in the order of the context's stream.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "dist/base/context.h"
#include "dist/comm/communicator.h"

namespace restkv {

struct NcclOptions {
  /// Deadline of the start and of every collective (device_monitor.h); 0: none, nothing is watched.
  double timeout_s = 0.0;
  /// Ends all ranks after a missed deadline, from another thread, with the message already printed. Needed with a
  /// deadline.
  std::function<void(const std::string& message)> on_expired;
  /// Thread blocks (each takes one multiprocessor) that one collective may use; 0: NCCL chooses.
  int max_blocks = 0;
  /// Up to so many ranks (those of one host, all joined by NVLink) an irregular all_gather_v sends directly between
  /// every two of them: one hop. Beyond it, every row would cross the network once per receiver, where broadcasts
  /// along a ring let it cross once.
  int direct_ranks = 8;
};

/// The group of the ranks of `control`, in its order, one GPU each; `control` moves host memory and is used for the
/// start alone. Collective over it; returns when all connections are made. `ctx` must outlive the group, its sub-groups
/// and their graphs. Throws InputError in a build without CUDA and RuntimeFailure when NCCL cannot start.
///
/// Calls may be captured into graphs (GpuRuntime::capture). A captured call is counted once in stats(), at the
/// capture; see Communicator::add_stats. What each call promises: dist/README.md.
std::unique_ptr<Communicator> make_nccl_communicator(Context& ctx, Communicator& control, const NcclOptions& options);

}  // namespace restkv
