// Copies between pinned host memory and the device beside the computation, in an order of their own.
#pragma once

#include <cstdint>
#include <memory>

#include "dist/base/context.h"

namespace restkv {

/// What is enqueued on a lane runs one after the other. On GPUs it is a stream beside the context's: neither the host
/// nor the computation waits for it but by join(). On CPU ranks every call has ended on return.
class CopyLane {
 public:
  virtual ~CopyLane() = default;

  /// What is enqueued here from now on begins when all that the context's stream has now is done.
  virtual void follow() = 0;
  /// The host side is pinned (host_rows()) and stays as it is until the copy has been joined.
  virtual void to_device(void* device, const void* host, int64_t bytes) = 0;
  virtual void to_host(void* host, const void* device, int64_t bytes) = 0;
  /// A mark behind all that is enqueued here so far; null on CPU ranks.
  virtual std::shared_ptr<void> mark() = 0;
  /// What the context's stream gets from now on begins when the mark is reached. Null: nothing to wait for.
  virtual void join(const void* mark) = 0;
};

/// The context outlives it.
std::unique_ptr<CopyLane> make_copy_lane(Context& ctx);

/// Host memory for a lane, f32 [rows, cols]: pinned on GPU ranks (taking and returning it waits for the device; it is
/// not in the context's account), on CPU ranks a tensor like any other.
Tensor host_rows(Context& ctx, int64_t rows, int64_t cols);

namespace gpu {
std::unique_ptr<CopyLane> make_copy_lane(Context& ctx);  // copy_lane_gpu.cu
}  // namespace gpu

}  // namespace restkv
