#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "dist/base/gpu_handles.h"
#include "tests/dist/loopback_communicator.h"

namespace restkv::testing {
namespace {

constexpr int kThreads = 256;

// As collective::fold().
template <class T>
__device__ T folded(T into, T from, ReduceOp op) {
  if (op == ReduceOp::sum) return into + from;
  if (op == ReduceOp::max) return from > into || from != from ? from : into;
  return from < into || from != from ? from : into;
}

// As collective::fold() sums bf16: rounded at every addition.
__device__ __nv_bfloat16 folded(__nv_bfloat16 into, __nv_bfloat16 from, ReduceOp) {
  return __float2bfloat16_rn(__bfloat162float(into) + __bfloat162float(from));
}

template <class T>
__global__ void fold_kernel(T* into, const T* from, int64_t count, ReduceOp op) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) into[i] = folded(into[i], from[i], op);
}

class GpuDevice final : public LoopbackDevice {
 public:
  explicit GpuDevice(Context& ctx) : main_(stream_of(ctx)), stream_(main_) {
    for (cudaEvent_t* event : {&events_[ready], &events_[done], &order_})
      RESTKV_CUDA_CHECK(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
    RESTKV_CUDA_CHECK(cudaStreamCreateWithFlags(&side_, cudaStreamNonBlocking));
  }
  ~GpuDevice() override {
    for (cudaEvent_t event : {events_[ready], events_[done], order_}) cudaEventDestroy(event);
    cudaStreamDestroy(side_);
  }

  void record(Mark mark) override { RESTKV_CUDA_CHECK(cudaEventRecord(events_[mark], stream_)); }
  void wait(LoopbackDevice& peer, Mark mark) override {
    RESTKV_CUDA_CHECK(cudaStreamWaitEvent(stream_, static_cast<GpuDevice&>(peer).events_[mark], 0));
  }
  void copy(void* to, const void* from, int64_t bytes) override {
    if (bytes == 0 || to == from) return;
    RESTKV_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_));
  }
  void fold(void* into, const void* from, int64_t count, DType dtype, ReduceOp op) override {
    switch (dtype) {
      case DType::f32: return fold_as<float>(into, from, count, op);
      case DType::bf16:
        RESTKV_CHECK(op == ReduceOp::sum, "no reduction of bf16 but the sum");
        return fold_as<__nv_bfloat16>(into, from, count, op);
      case DType::f64: return fold_as<double>(into, from, count, op);
      case DType::i32: return fold_as<int32_t>(into, from, count, op);
      case DType::i64: return fold_as<int64_t>(into, from, count, op);
      case DType::u32: return fold_as<uint32_t>(into, from, count, op);
      case DType::u64: return fold_as<uint64_t>(into, from, count, op);
      default: fail_runtime("no reduction of {}", restkv::name_of(dtype));
    }
  }
  void* allocate(int64_t bytes) override {
    void* data = nullptr;
    RESTKV_CUDA_CHECK(cudaMallocAsync(&data, static_cast<size_t>(bytes > 0 ? bytes : 1), stream_));
    return data;
  }
  void release(void* data) override { RESTKV_CUDA_CHECK(cudaFreeAsync(data, stream_)); }

  std::shared_ptr<void> beside(const std::function<void()>& calls) override {
    if (stream_ != main_) {  // already there
      calls();
      return nullptr;
    }
    RESTKV_CUDA_CHECK(cudaEventRecord(order_, main_));
    RESTKV_CUDA_CHECK(cudaStreamWaitEvent(side_, order_, 0));
    stream_ = side_;
    try {
      calls();
    } catch (...) {
      stream_ = main_;
      throw;
    }
    stream_ = main_;
    cudaEvent_t ended = nullptr;
    RESTKV_CUDA_CHECK(cudaEventCreateWithFlags(&ended, cudaEventDisableTiming));
    std::shared_ptr<void> ticket(ended, [](void* event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); });
    RESTKV_CUDA_CHECK(cudaEventRecord(ended, side_));
    return ticket;
  }
  void join(const void* ticket) override {
    if (ticket == nullptr) return;
    RESTKV_CUDA_CHECK(cudaStreamWaitEvent(main_, static_cast<cudaEvent_t>(const_cast<void*>(ticket)), 0));
  }

 private:
  template <class T>
  void fold_as(void* into, const void* from, int64_t count, ReduceOp op) {
    if (count == 0) return;
    fold_kernel<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, stream_>>>(
        static_cast<T*>(into), static_cast<const T*>(from), count, op);
    RESTKV_KERNEL_CHECK();
  }

  cudaStream_t main_, side_ = nullptr, stream_;
  cudaEvent_t events_[2] = {}, order_ = nullptr;
};

}  // namespace

std::unique_ptr<LoopbackDevice> make_loopback_gpu(Context& ctx) { return std::make_unique<GpuDevice>(ctx); }

}  // namespace restkv::testing
