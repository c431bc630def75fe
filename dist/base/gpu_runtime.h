// What a rank needs of its GPU, without any CUDA type: the stream in whose order everything runs, and memory. The
// kernels' side (streams, handles) is in gpu_handles.h, for *_gpu.cu files only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace restkv {

class GpuRuntime {
 public:
  /// Takes device `index` of those this process sees. Throws InputError in a build without CUDA, and when there is no
  /// such device.
  static std::unique_ptr<GpuRuntime> create(int index);
  /// GPUs that this process sees; 0 in a build without CUDA, and where there is no driver.
  static int count();
  virtual ~GpuRuntime() = default;

  /// Memory in stream order, 256-byte aligned; returned to this runtime's pool when the last owner lets go (which must
  /// be before the runtime ends). Throws RuntimeFailure when there is none left, with the bytes asked for and free.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* data) noexcept = 0;

  /// Copies in stream order. The host side of to_device may be changed on return; to_host returns when the data has
  /// arrived.
  virtual void to_device(void* device, const void* host, int64_t bytes) = 0;
  virtual void to_host(void* host, const void* device, int64_t bytes) = 0;
  virtual void copy(void* to, const void* from, int64_t bytes) = 0;
  virtual void fill_zero(void* device, int64_t bytes) = 0;

  /// The same without waiting, to and from pinned host memory, which must stay as it is until the stream has got there.
  virtual std::shared_ptr<void> allocate_pinned(int64_t bytes) = 0;
  virtual void to_device_later(void* device, const void* pinned, int64_t bytes) = 0;
  virtual void to_host_later(void* pinned, const void* device, int64_t bytes) = 0;

  /// Makes the pool hold at least `bytes` more than is in use: later requests that fit cost no call into the driver.
  /// Throws RuntimeFailure as allocate() does.
  virtual void reserve(int64_t bytes) = 0;

  /// A mark in the stream's order: something to wait for, and to take times between.
  virtual std::shared_ptr<void> mark() = 0;
  virtual void wait(const void* mark) = 0;
  /// Seconds on the device between two marks; waits for the later one.
  virtual double seconds_between(const void* from, const void* to) = 0;

  /// Records what `body` enqueues, instead of running it, as a graph to be launched any number of times. `body` must
  /// neither wait nor allocate.
  virtual std::shared_ptr<void> capture(const std::function<void()>& body) = 0;
  virtual void launch(const void* graph) = 0;
  /// Calls `hook` after every launch, in the stream's order, as long as the handle lives. It must not launch.
  [[nodiscard]] virtual std::shared_ptr<void> after_launch(std::function<void()> hook) = 0;

  /// A named range around host code, for profilers.
  virtual void push_range(const char* name) = 0;
  virtual void pop_range() = 0;

  /// Waits for everything enqueued so far; throws RuntimeFailure for an error of an earlier kernel.
  virtual void synchronize() = 0;

  /// Lets go of the plans kept by plan_slot (gpu_handles.h). Their tensors own a share of this runtime, so the context
  /// calls this at its end: the runtime would otherwise keep itself alive.
  virtual void drop_plans() = 0;

  virtual std::string describe() const = 0;  ///< name, memory and UUID of the device
  virtual std::string uuid() const = 0;
  virtual std::string versions() const = 0;  ///< "CUDA 13.0, driver 13.0, cuBLASLt 13.0.2, NCCL 2.28.9"
  /// How this device reaches the others that this process sees: "NVLink to 3 of 3 other GPUs".
  virtual std::string links() const = 0;
  virtual int64_t total_bytes() const = 0;
  virtual int64_t free_bytes() const = 0;
  virtual int multiprocessors() const = 0;
};

}  // namespace restkv
