// Copies of rectangles of a matrix from global to shared memory by the copy engine of a multiprocessor (TMA), and the
// barriers in shared memory that tell when they are there. For *_sm90a_gpu.cu files.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "dist/base/gpu_handles.h"

namespace restkv::gpu {

/// Describes bf16 rows [rows, cols] with `ld` elements from one to the next for copies of rectangles of box_rows x 64,
/// swizzled as swizzled_descriptor() (warpgroup.h) has it; what lies outside of the matrix is copied as zeros.
/// Preconditions: 16-byte alignment of the rows, rows > 0, box_rows <= 256.
inline CUtensorMap describe_rows(const void* data, int64_t rows, int64_t cols, int64_t ld, int box_rows) {
  // By way of the runtime: a program needs no library of the driver to link with.
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult status{};
#if CUDART_VERSION >= 12050
    RESTKV_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status));
#else
    RESTKV_CUDA_CHECK(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &status));
#endif
    RESTKV_CHECK(status == cudaDriverEntryPointSuccess && found != nullptr, "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  CUtensorMap map{};
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(ld) * sizeof(__nv_bfloat16)};
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(box_rows)}, steps[2] = {1, 1};
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, strides,
                                 box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  RESTKV_CHECK(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error {} for [{}, {}] with rows {} apart",
               static_cast<int>(result), rows, cols, ld);
  return map;
}

/// A barrier for `count` arrivals a phase, phases 0, 1, 0, ...; by one thread, then show_barriers() and a barrier of
/// the block.
__device__ inline void make_barrier(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ inline void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// The end of the phase of this parity, if it has not been yet.
__device__ inline void wait_phase(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0)
    asm volatile(
        "{\n.reg .pred done;\nmbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\nselp.u32 %0, 1, 0, done;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
}

#if __CUDA_ARCH__ >= 900
__device__ inline void show_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

/// The barrier's phase ends only when so many bytes more have been copied.
__device__ inline void expect_bytes(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// The rectangle from (row, column) on to `to` (a multiple of 1024); by one thread, after expect_bytes().
__device__ inline void copy_box(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
#endif

}  // namespace restkv::gpu
