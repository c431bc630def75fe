// The CUDA side of a Context, for *_gpu.cu files.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "dist/base/context.h"
#include "dist/base/error.h"

namespace restkv {

namespace detail {
[[noreturn]] void cuda_failed(const char* call, const char* file, int line, cudaError_t status);
[[noreturn]] void cublas_failed(const char* call, const char* file, int line, cublasStatus_t status);
}  // namespace detail

#define RESTKV_CUDA_CHECK(call)                                            \
  do {                                                                     \
    if (cudaError_t status_ = (call); status_ != cudaSuccess) [[unlikely]] \
      ::restkv::detail::cuda_failed(#call, __FILE__, __LINE__, status_);   \
  } while (0)

#define RESTKV_CUBLAS_CHECK(call)                                                       \
  do {                                                                                  \
    if (cublasStatus_t status_ = (call); status_ != CUBLAS_STATUS_SUCCESS) [[unlikely]] \
      ::restkv::detail::cublas_failed(#call, __FILE__, __LINE__, status_);              \
  } while (0)

/// After every kernel launch: reports a launch that failed at once (the asynchronous ones appear at the next
/// synchronisation).
#define RESTKV_KERNEL_CHECK() RESTKV_CUDA_CHECK(cudaGetLastError())

/// The stream of this rank's work. Precondition: ctx.device() == Device::gpu.
cudaStream_t stream_of(const Context& ctx);
cublasLtHandle_t cublaslt_of(const Context& ctx);
/// Scratch that cuBLASLt may use in stream order.
void* blas_workspace_of(const Context& ctx, size_t* bytes);

/// A place for a plan that is costly to make (a GEMM algorithm, an attention graph), kept as long as the context. Null
/// at first use of a key.
std::shared_ptr<void>& plan_slot(const Context& ctx, const std::string& key);

}  // namespace restkv
