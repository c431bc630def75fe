// n ranks that are threads of one process, each with its own Context: on CPUs, or all on one GPU (each with a stream of
// its own). Tests of what several ranks do together then need neither MPI nor several GPUs.
// Hosts meet at every collective; the streams are put in order by events, and nobody waits for the device.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "dist/base/context.h"
#include "dist/comm/communicator.h"
#include "dist/comm/process_grid.h"

namespace restkv::testing {

/// What a thread has. Communicators end before the context.
struct LoopbackRank {
  Context& ctx;
  std::unique_ptr<Communicator> world;    ///< moves memory of ctx's device, in the order of its stream
  std::unique_ptr<Communicator> control;  ///< the same ranks; host memory
};

/// Runs `body` on `ranks` threads. When one throws, the others end at their next collective, and the first exception is
/// thrown here. Ranks that make different calls, or that do not come within `timeout_s`, are such an exception.
/// Throws InputError when there is no such device.
void run_loopback(int ranks, Device device, const std::function<void(LoopbackRank&)>& body, double timeout_s = 120.0);

/// A grid of all ranks; collective. Any number of them may follow each other.
ProcessGrid loopback_grid(LoopbackRank& rank, int sequence, int tensor);

/// How the memory of a device is moved, and in which order. One object per communicator and rank.
class LoopbackDevice {
 public:
  enum Mark { ready, done };
  virtual ~LoopbackDevice() = default;
  /// What was enqueued here is before the mark; what is enqueued after wait() is behind the peer's mark.
  virtual void record(Mark) {}
  virtual void wait(LoopbackDevice& /*peer*/, Mark) {}
  virtual void copy(void* to, const void* from, int64_t bytes) = 0;
  virtual void fold(void* into, const void* from, int64_t count, DType dtype, ReduceOp op) = 0;
  /// Scratch in the order of the calls.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* data) = 0;
  /// Of Communicator.
  virtual std::shared_ptr<void> beside(const std::function<void()>& calls) = 0;
  virtual void join(const void* ticket) = 0;
};

/// loopback_gpu.cu; absent in a build without CUDA.
std::unique_ptr<LoopbackDevice> make_loopback_gpu(Context& ctx);

}  // namespace restkv::testing
