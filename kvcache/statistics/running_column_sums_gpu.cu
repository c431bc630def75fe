#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/statistics/running_column_sums.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) add_kernel(const int64_t* terms, int64_t n, int64_t* into, int64_t ld) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, row = blockIdx.y;
  if (i < n) into[row * ld + i] += terms[row * n + i];
}

}  // namespace

void add_i64(Context& ctx, const int64_t* terms, int64_t rows, int64_t n, int64_t* into, int64_t ld) {
  if (rows == 0 || n == 0) return;
  RESTKV_CHECK(rows <= 65535 && n <= ld, "{} rows of {} in rows of {}", rows, n, ld);
  add_kernel<<<dim3(blocks_for(n, kThreads), static_cast<unsigned>(rows)), kThreads, 0, stream_of(ctx)>>>(terms, n,
                                                                                                          into, ld);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
