#include "dist/base/context.h"

#include <cblas.h>
#include <fmt/ranges.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>

#include "dist/base/blas_kernels.h"
#include "dist/base/error.h"

namespace restkv {
namespace {

int cores_allowed() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

void* allocate_host(int64_t bytes, int64_t held) {
  constexpr size_t kAlignment = 64;
  size_t rounded = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
  void* data = std::aligned_alloc(kAlignment, rounded);
  if (data == nullptr) fail_runtime("out of memory: {} bytes for a tensor, {} bytes already held", bytes, held);
  return data;
}

}  // namespace

void MemoryAccount::add(int64_t bytes) {
  int64_t now = current_ += bytes;
  int64_t peak = peak_;
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
}

Context::Context(const Options& options)
    : device_(options.device),
      threads_(options.threads > 0 ? options.threads : cores_allowed()),
      memory_(std::make_shared<MemoryAccount>()) {
  if (device_ == Device::gpu) gpu_ = GpuRuntime::create(options.device_index);
  // Every BLAS call works on one tile in one thread; tiles are spread by parallel_for. Results then depend neither
  // on the number of threads nor on how many rows a rank owns.
  openblas_set_num_threads(1);
  choose_blas_kernels();
}

Context::~Context() {
  // A plan's memory returns through the driver, which may wait for a collective that never ends (see ~CudaRuntime).
  if (gpu_ && std::uncaught_exceptions() == 0) gpu_->drop_plans();
}

Tensor Context::empty(DType dtype, Shape shape) {
  int64_t bytes = size_of(dtype);
  for (int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes))
      fail_runtime("no tensor {}[{}] can exist", name_of(dtype), fmt::join(shape, ", "));
  // An empty tensor has an address too: copies of nothing need a valid one.
  int64_t held = std::max<int64_t>(bytes, 1);
  void* data = gpu_ ? gpu_->allocate(held) : allocate_host(held, memory_->current());
  memory_->add(bytes);
  auto memory = std::shared_ptr<void>(data, [account = memory_, gpu = gpu_, bytes](void* p) {
    if (gpu)
      gpu->release(p);
    else
      std::free(p);
    account->remove(bytes);
  });
  return Tensor::own(std::move(memory), dtype, std::move(shape), device_);
}

Tensor Context::zeros(DType dtype, Shape shape) {
  Tensor t = empty(dtype, std::move(shape));
  if (t.empty()) return t;
  fill_zero(t.raw(), t.bytes());
  return t;
}

Tensor Context::to_device(const void* host, DType dtype, Shape shape) {
  Tensor t = empty(dtype, std::move(shape));
  if (t.empty()) return t;
  if (gpu_)
    gpu_->to_device(t.raw(), host, t.bytes());
  else
    std::memcpy(t.raw(), host, static_cast<size_t>(t.bytes()));
  return t;
}

void Context::to_host(const void* data, void* host, int64_t bytes) const {
  if (bytes == 0) return;
  if (gpu_)
    gpu_->to_host(host, data, bytes);
  else
    std::memcpy(host, data, static_cast<size_t>(bytes));
}

void Context::copy(void* to, const void* from, int64_t bytes) const {
  if (bytes == 0) return;
  if (gpu_)
    gpu_->copy(to, from, bytes);
  else
    std::memcpy(to, from, static_cast<size_t>(bytes));
}

void Context::fill_zero(void* data, int64_t bytes) const {
  if (gpu_)
    gpu_->fill_zero(data, bytes);
  else
    std::memset(data, 0, static_cast<size_t>(bytes));
}

void Context::synchronize() const {
  if (gpu_) gpu_->synchronize();
}

void Context::parallel_for(int64_t n, const std::function<void(int64_t)>& body) const {
  if (n <= 0) return;
  if (n == 1 || threads_ == 1) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  std::exception_ptr first;
  std::mutex mutex;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads_)
  for (int64_t i = 0; i < n; ++i) {
    try {
      body(i);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace restkv
