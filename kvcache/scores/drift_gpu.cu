#include "dist/base/gpu_handles.h"
#include "kvcache/scores/drift.h"

namespace restkv::gpu {
namespace {

// One warp per head. Sums of integers have no order; what is rounded is computed as on the CPU, operation by operation.
__global__ void adapt(const int64_t* top_sums, int64_t W, int64_t top, int64_t kernel_size, double beta,
                      int64_t* kernels, int64_t* shifts, PoolWindow* windows) {
  const int64_t head = blockIdx.x, half = W / 2;
  const int64_t* sums = top_sums + head * W;
  long long difference = 0;  // early rows minus late rows
  for (int64_t w = threadIdx.x; w < half; w += 32) difference += sums[w] - sums[W - 1 - w];
  for (int offset = 16; offset > 0; offset /= 2) difference += __shfl_xor_sync(0xffffffffu, difference, offset);
  if (threadIdx.x != 0) return;
  const double t = __ddiv_rn(static_cast<double>(difference), static_cast<double>(half * top));
  const int64_t steps = static_cast<int64_t>(floor(__ddiv_rn(fabs(t), beta)));
  const int64_t kernel = kernel_size > 2 * steps + 1 ? kernel_size : 2 * steps + 1;
  const int64_t shift = static_cast<int64_t>(floor(__ddiv_rn(t, beta))) + (t > 0.0 ? 0 : 1);
  kernels[head] = kernel;
  shifts[head] = shift;
  windows[head] = {-(kernel / 2 - shift), kernel / 2 + shift};
}

}  // namespace

void adaptive_windows(Context& ctx, const Tensor& top_sums, int64_t W, int64_t top, int64_t kernel_size, double beta,
                      const AdaptiveWindows& result) {
  const int64_t heads = result.kernel.numel();
  if (heads == 0) return;
  adapt<<<static_cast<unsigned>(heads), 32, 0, stream_of(ctx)>>>(
      top_sums.data<int64_t>(), W, top, kernel_size, beta, result.kernel.data<int64_t>(), result.shift.data<int64_t>(),
      static_cast<PoolWindow*>(result.windows.raw()));
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
