#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/has_warpgroups.h"

namespace restkv::gpu {
namespace {

// Tells which code of this file, and so of all that are compiled like it, the device has loaded: it needs static shared
// memory where products of warpgroups are.
__global__ void probe_kernel(int* never) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ int mark[32];
  mark[threadIdx.x % 32] = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (never != nullptr) *never = mark[(threadIdx.x + 1) % 32];
#endif
}

}  // namespace

bool has_warpgroups() {
  cudaFuncAttributes attributes{};
  RESTKV_CUDA_CHECK(cudaFuncGetAttributes(&attributes, probe_kernel));
  return attributes.sharedSizeBytes >= 32 * sizeof(int);
}

}  // namespace restkv::gpu
