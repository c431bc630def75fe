#include "dist/base/gpu_handles.h"
#include "model/ops/softcap.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) softcap_kernel(float* x, int64_t n, float cap) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) x[i] = cap * tanhf(x[i] / cap);
}

}  // namespace

void softcap(Context& ctx, float* x, int64_t n, float cap) {
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
  softcap_kernel<<<blocks, kThreads, 0, stream_of(ctx)>>>(x, n, cap);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
