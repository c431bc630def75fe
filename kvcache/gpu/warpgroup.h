// Warpgroup products (wgmma), for *_sm90a_gpu.cu files: compute capability 9.0 alone has them. Sums are f32.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace restkv::gpu {

/// Describes a matrix [n, 16] of 16-bit elements in shared memory, without swizzle: pieces of 8 rows of 16 bytes
/// (columns 0 to 7, or 8 to 15) are 128 bytes in sequence. `across`: bytes from a piece to the one with the next eight
/// columns; `down`: to the one with the next eight rows. All are multiples of 16.
__device__ inline uint64_t matrix_descriptor(uint32_t address, uint32_t across, uint32_t down) {
  return static_cast<uint64_t>(address >> 4 & 0x3fff) | static_cast<uint64_t>(across >> 4) << 16 |
         static_cast<uint64_t>(down >> 4) << 32;
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL  // set by nvcc where the code being compiled may use them
/// What threads wrote to shared memory before it is seen by products after it (of any thread, behind a barrier).
__device__ inline void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Orders the threads' accesses to registers before it and those of the products after it.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Ends a group of products; wait_products<n>() waits for all groups but the last n. Until then nobody may touch the
/// registers of a product.
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// d [64, 32] (+)= a [64, 16] * b^T with b [32, 16] in shared memory, in f16. Warp w of the four has the rows from 16 w
/// on, in the layouts of multiply_f16() (tensor_core.h): d[4 j] to d[4 j + 3] are of the columns 8 j to 8 j + 7.
__device__ inline void warpgroup_multiply_f16(float (&d)[16], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %21, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "{%16, %17, %18, %19}, %20, add, 1, 1, 0;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

/// Keeps the compiler from moving uses of finished sums before the wait for them.
template <int kCount>
__device__ inline void products_written(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
#endif

}  // namespace restkv::gpu
