#include <nccl.h>
#include <nvtx3/nvToolsExt.h>

#include <exception>
#include <list>
#include <unordered_map>

#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_runtime.h"

namespace restkv {
namespace detail {

void cuda_failed(const char* call, const char* file, int line, cudaError_t status) {
  fail_runtime("{}:{}: {}: {} ({})", file, line, call, cudaGetErrorString(status), cudaGetErrorName(status));
}

void cublas_failed(const char* call, const char* file, int line, cublasStatus_t status) {
  fail_runtime("{}:{}: {}: {}", file, line, call, cublasGetStatusString(status));
}

}  // namespace detail

namespace {

constexpr size_t kBlasWorkspace = size_t{64} << 20;

class CudaRuntime final : public GpuRuntime {
 public:
  explicit CudaRuntime(int index) : index_(index) {
    RESTKV_CUDA_CHECK(cudaSetDevice(index));
    RESTKV_CUDA_CHECK(cudaGetDeviceProperties(&properties_, index));
    RESTKV_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RESTKV_CUBLAS_CHECK(cublasLtCreate(&blas));
    // Freed memory stays in the pool: the next request of the same size costs no call into the driver.
    cudaMemPool_t pool;
    RESTKV_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, index));
    uint64_t keep = UINT64_MAX;
    RESTKV_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
    workspace = allocate(kBlasWorkspace);
  }

  ~CudaRuntime() override {
    // While an exception unwinds, the stream may hold a collective for which other ranks will never come: waiting would
    // keep this rank from telling its error. The process is about to end.
    if (std::uncaught_exceptions() > 0) return;
    release(workspace);
    cudaStreamSynchronize(stream);
    cublasLtDestroy(blas);
    cudaStreamDestroy(stream);
  }

  void* allocate(int64_t bytes) override {
    void* data = nullptr;
    cudaError_t status = cudaMallocAsync(&data, static_cast<size_t>(bytes > 0 ? bytes : 1), stream);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      fail_runtime("out of GPU memory: {} bytes asked for, {} of {} bytes free on {}", bytes, free_bytes(),
                   total_bytes(), properties_.name);
    }
    RESTKV_CUDA_CHECK(status);
    return data;
  }

  void release(void* data) noexcept override { cudaFreeAsync(data, stream); }

  void to_device(void* device, const void* host, int64_t bytes) override {
    if (bytes == 0) return;
    RESTKV_CUDA_CHECK(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream));
    // Pageable memory is staged before the call returns, pinned memory is not: wait, so that both may be reused.
    RESTKV_CUDA_CHECK(cudaStreamSynchronize(stream));
  }

  void to_host(void* host, const void* device, int64_t bytes) override {
    if (bytes == 0) return;
    RESTKV_CUDA_CHECK(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream));
    RESTKV_CUDA_CHECK(cudaStreamSynchronize(stream));
  }

  void copy(void* to, const void* from, int64_t bytes) override {
    RESTKV_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream));
  }

  void fill_zero(void* device, int64_t bytes) override {
    RESTKV_CUDA_CHECK(cudaMemsetAsync(device, 0, static_cast<size_t>(bytes), stream));
  }

  std::shared_ptr<void> allocate_pinned(int64_t bytes) override {
    void* data = nullptr;
    RESTKV_CUDA_CHECK(cudaMallocHost(&data, static_cast<size_t>(bytes)));
    return {data, [](void* p) {
              // It waits for the device: see ~CudaRuntime.
              if (std::uncaught_exceptions() == 0) cudaFreeHost(p);
            }};
  }

  void to_device_later(void* device, const void* pinned, int64_t bytes) override {
    RESTKV_CUDA_CHECK(cudaMemcpyAsync(device, pinned, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream));
  }

  void to_host_later(void* pinned, const void* device, int64_t bytes) override {
    RESTKV_CUDA_CHECK(cudaMemcpyAsync(pinned, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream));
  }

  void reserve(int64_t bytes) override {
    if (bytes > 0) release(allocate(bytes));
  }

  std::shared_ptr<void> mark() override {
    cudaEvent_t event = nullptr;
    RESTKV_CUDA_CHECK(cudaEventCreate(&event));
    std::shared_ptr<void> owner(event, [](void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(e)); });
    RESTKV_CUDA_CHECK(cudaEventRecord(event, stream));
    return owner;
  }

  void wait(const void* mark) override { RESTKV_CUDA_CHECK(cudaEventSynchronize(event_of(mark))); }

  double seconds_between(const void* from, const void* to) override {
    wait(to);
    float milliseconds = 0.0f;
    RESTKV_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, event_of(from), event_of(to)));
    return 1e-3 * static_cast<double>(milliseconds);
  }

  std::shared_ptr<void> capture(const std::function<void()>& body) override {
    cudaGraph_t graph = nullptr;
    RESTKV_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    try {
      body();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    RESTKV_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t ready = nullptr;
    cudaError_t status = cudaGraphInstantiate(&ready, graph, 0);
    cudaGraphDestroy(graph);
    RESTKV_CUDA_CHECK(status);
    return {ready, [](void* g) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(g)); }};
  }

  void launch(const void* graph) override {
    RESTKV_CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(const_cast<void*>(graph)), stream));
    for (const auto& hook : *hooks_) hook();
  }

  std::shared_ptr<void> after_launch(std::function<void()> hook) override {
    auto place = hooks_->insert(hooks_->end(), std::move(hook));
    return {static_cast<void*>(&*place), [hooks = hooks_, place](void*) { hooks->erase(place); }};
  }

  void push_range(const char* name) override { nvtxRangePushA(name); }
  void pop_range() override { nvtxRangePop(); }

  void drop_plans() override { plans.clear(); }

  void synchronize() override { RESTKV_CUDA_CHECK(cudaStreamSynchronize(stream)); }

  std::string uuid() const override {
    std::string text;
    for (char c : properties_.uuid.bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
    return text;
  }

  std::string describe() const override {
    return fmt::format("{} (device {}, {} MiB, UUID {})", properties_.name, index_, properties_.totalGlobalMem >> 20,
                       uuid());
  }

  std::string versions() const override {
    int runtime = 0, driver = 0;
    RESTKV_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    RESTKV_CUDA_CHECK(cudaDriverGetVersion(&driver));
    size_t blas = cublasLtGetVersion();
    auto two = [](int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); };
    int nccl = 0;
    if (ncclGetVersion(&nccl) != ncclSuccess) nccl = 0;
    return fmt::format("CUDA {}, driver {}, cuBLASLt {}.{}.{}, NCCL {}.{}.{}", two(runtime), two(driver), blas / 10000,
                       blas / 100 % 100, blas % 100, nccl / 10000, nccl / 100 % 100, nccl % 100);
  }

  std::string links() const override {
    int count = 0, nvlink = 0, direct = 0;
    RESTKV_CUDA_CHECK(cudaGetDeviceCount(&count));
    for (int other = 0; other < count; ++other) {
      if (other == index_) continue;
      int access = 0, atomics = 0;
      RESTKV_CUDA_CHECK(cudaDeviceCanAccessPeer(&access, index_, other));
      // Of the links between GPUs only NVLink carries atomics.
      if (access)
        RESTKV_CUDA_CHECK(cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, index_, other));
      nvlink += access && atomics;
      direct += access && !atomics;
    }
    const int others = count - 1;
    if (others == 0) return "no other GPU in sight";
    std::string text = fmt::format("NVLink to {} of {} other GPU{}", nvlink, others, others == 1 ? "" : "s");
    if (direct > 0) text += fmt::format(", PCIe peer access to {}", direct);
    if (nvlink + direct < others) text += fmt::format(", {} through host memory", others - nvlink - direct);
    return text;
  }

  int64_t total_bytes() const override { return static_cast<int64_t>(properties_.totalGlobalMem); }

  int64_t free_bytes() const override {
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return static_cast<int64_t>(free);
  }

  int multiprocessors() const override { return properties_.multiProcessorCount; }

  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  void* workspace = nullptr;
  mutable std::unordered_map<std::string, std::shared_ptr<void>> plans;

 private:
  static cudaEvent_t event_of(const void* mark) { return static_cast<cudaEvent_t>(const_cast<void*>(mark)); }

  int index_;
  cudaDeviceProp properties_;
  // Shared with the handles of hooks, which may outlive this.
  std::shared_ptr<std::list<std::function<void()>>> hooks_ = std::make_shared<std::list<std::function<void()>>>();
};

const CudaRuntime& runtime_of(const Context& ctx) {
  RESTKV_CHECK(ctx.gpu() != nullptr, "a GPU op on a CPU context");
  return static_cast<const CudaRuntime&>(*ctx.gpu());
}

}  // namespace

std::unique_ptr<GpuRuntime> GpuRuntime::create(int index) {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess)
    fail_input("device: gpu was asked for, but there is none to use: {}", cudaGetErrorString(status));
  if (index < 0 || index >= count)
    fail_input("device: GPU {} was asked for, this process sees {} (0 to {})", index, count, count - 1);
  return std::make_unique<CudaRuntime>(index);
}

int GpuRuntime::count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // a machine without a GPU is no error of what comes next
  return 0;
}

cudaStream_t stream_of(const Context& ctx) { return runtime_of(ctx).stream; }
cublasLtHandle_t cublaslt_of(const Context& ctx) { return runtime_of(ctx).blas; }

std::shared_ptr<void>& plan_slot(const Context& ctx, const std::string& key) { return runtime_of(ctx).plans[key]; }

void* blas_workspace_of(const Context& ctx, size_t* bytes) {
  *bytes = kBlasWorkspace;
  return runtime_of(ctx).workspace;
}

}  // namespace restkv
