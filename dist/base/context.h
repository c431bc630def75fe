// The runtime of one rank: its device, its threads, its memory account. Created once, passed by reference;
// nothing in this library is global.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "dist/base/gpu_runtime.h"
#include "dist/base/tensor.h"

namespace restkv {

/// Bytes that the tensors of one rank hold now and held at most. Shared by the tensors' deleters, so it may outlive
/// the Context.
class MemoryAccount {
 public:
  void add(int64_t bytes);
  void remove(int64_t bytes) { current_ -= bytes; }
  int64_t current() const { return current_; }
  int64_t peak() const { return peak_; }
  void reset_peak() { peak_ = current_.load(); }

 private:
  std::atomic<int64_t> current_{0};
  std::atomic<int64_t> peak_{0};
};

class Context {
 public:
  struct Options {
    Device device = Device::cpu;
    int threads = 0;       ///< CPU threads of this rank; 0: all cores that its affinity mask allows
    int device_index = 0;  ///< which GPU of those this process sees
  };

  /// Throws InputError when the device is not available in this build or on this machine.
  explicit Context(const Options& options);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return device_; }
  int threads() const { return threads_; }

  /// Uninitialised memory on this rank's device, 64-byte aligned. Throws RuntimeFailure when there is none left.
  Tensor empty(DType dtype, Shape shape);
  Tensor zeros(DType dtype, Shape shape);

  /// Null on CPU ranks.
  GpuRuntime* gpu() const { return gpu_.get(); }

  /// A copy of host memory on this rank's device, and the other way round (waits for the data).
  Tensor to_device(const void* host, DType dtype, Shape shape);
  template <class T>
  std::vector<T> to_host(const Tensor& tensor) const {
    std::vector<T> host(static_cast<size_t>(tensor.numel()));
    to_host(tensor.data<T>(), host.data(), tensor.bytes());
    return host;
  }
  void to_host(const void* data, void* host, int64_t bytes) const;
  /// Between two places on this rank's device, in stream order on GPUs.
  void copy(void* to, const void* from, int64_t bytes) const;
  void fill_zero(void* data, int64_t bytes) const;
  /// Waits until everything enqueued on this rank's device is done (nothing to do on CPU ranks).
  void synchronize() const;

  MemoryAccount& memory() { return *memory_; }
  const MemoryAccount& memory() const { return *memory_; }

  /// Runs body(i) for i in [0, n) on this rank's threads, in no fixed order; returns when all are done. The first
  /// exception of a body is rethrown. Items should be coarse (a tile, a head): each is one scheduling step.
  void parallel_for(int64_t n, const std::function<void(int64_t)>& body) const;

 private:
  Device device_;
  int threads_;
  std::shared_ptr<MemoryAccount> memory_;
  std::shared_ptr<GpuRuntime> gpu_;  // shared with the tensors, whose memory returns to it
};

}  // namespace restkv
