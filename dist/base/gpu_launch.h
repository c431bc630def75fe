// Kernel launches that overlap the end of the kernel before (programmatic dependent launch), for *_gpu.cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "dist/base/gpu_handles.h"

namespace restkv::gpu {

/// Starts `kernel` in stream order, but lets its blocks begin while the kernel before it drains. The kernel must call
/// wait_for_previous() in every thread before it reads or writes anything that an earlier kernel wrote or reads
/// (weights that no kernel writes may be fetched before), and may call let_next_start() once its own blocks are under
/// way. Captured into graphs as well.
template <class... Parameters, class... Arguments>
void launch_dependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                      Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  RESTKV_CUDA_CHECK(
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...));
}

#ifdef __CUDACC__
/// Everything that earlier kernels of the stream wrote is visible after it.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The next kernel may start its blocks where there is room (it still waits for this one's results).
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
#endif

}  // namespace restkv::gpu
