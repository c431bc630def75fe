#include <exception>

#include "dist/base/copy_lane.h"
#include "dist/base/gpu_handles.h"

namespace restkv {
namespace {

std::shared_ptr<void> record(cudaStream_t stream) {
  cudaEvent_t event = nullptr;
  RESTKV_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  std::shared_ptr<void> owner(event, [](void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(e)); });
  RESTKV_CUDA_CHECK(cudaEventRecord(event, stream));
  return owner;
}

// A stream keeps what it has to wait for when the event is destroyed.
void let_wait(cudaStream_t stream, const void* event) {
  RESTKV_CUDA_CHECK(cudaStreamWaitEvent(stream, static_cast<cudaEvent_t>(const_cast<void*>(event)), 0));
}

class StreamLane final : public CopyLane {
 public:
  explicit StreamLane(Context& ctx) : computation_(stream_of(ctx)) {
    RESTKV_CUDA_CHECK(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking));
  }
  ~StreamLane() override {
    // While an exception unwinds, the computation may wait for other ranks for ever, and copies for it.
    if (std::uncaught_exceptions() == 0) cudaStreamSynchronize(copies_);
    cudaStreamDestroy(copies_);
  }

  void follow() override { let_wait(copies_, record(computation_).get()); }
  void to_device(void* device, const void* host, int64_t bytes) override {
    copy(device, host, bytes, cudaMemcpyHostToDevice);
  }
  void to_host(void* host, const void* device, int64_t bytes) override {
    copy(host, device, bytes, cudaMemcpyDeviceToHost);
  }
  std::shared_ptr<void> mark() override { return record(copies_); }
  void join(const void* mark) override {
    if (mark != nullptr) let_wait(computation_, mark);
  }

 private:
  void copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
    if (bytes > 0) RESTKV_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, copies_));
  }

  cudaStream_t computation_, copies_ = nullptr;
};

}  // namespace

std::unique_ptr<CopyLane> gpu::make_copy_lane(Context& ctx) { return std::make_unique<StreamLane>(ctx); }

}  // namespace restkv
