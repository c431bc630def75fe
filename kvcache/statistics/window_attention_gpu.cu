#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/gpu/softmax_weight.h"
#include "kvcache/statistics/window_attention.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kAhead = 8;  // rows whose logits are under way together

// Four neighbouring positions per thread. The logits were written with ascending positions just before; going down
// finds the last of them in the L2 cache. `order` names the rows.
__global__ void __launch_bounds__(kThreads)
    attention_kernel(const float* logits, const float2* softmax, int W, int64_t stride, RowOrder order,
                     RowReducer reduce, float* a) {
  const int h = blockIdx.x;
  const int64_t i = (static_cast<int64_t>(gridDim.y - 1 - blockIdx.y) * kThreads + threadIdx.x) * 4;
  if (i >= stride) return;
  const int64_t first = static_cast<int64_t>(h) * W + order.first, row_step = order.step * stride;
  const int count = static_cast<int>(order.count), step = static_cast<int>(order.step);
  const float* from = logits + first * stride + i;
  const float2* rows = softmax + first;
  float state[4] = {};
  int w = 0;
  auto add = [&](float4 x, int row) {
    const float2 m = __ldg(rows + row * step);
    state[0] = reduce.add(state[0], softmax_weight(x.x, m), row);
    state[1] = reduce.add(state[1], softmax_weight(x.y, m), row);
    state[2] = reduce.add(state[2], softmax_weight(x.z, m), row);
    state[3] = reduce.add(state[3], softmax_weight(x.w, m), row);
  };
  for (; w + kAhead <= count; w += kAhead) {
    float4 x[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) x[j] = __ldcs(reinterpret_cast<const float4*>(from + (w + j) * row_step));
#pragma unroll
    for (int j = 0; j < kAhead; ++j) add(x[j], w + j);
  }
  for (; w < count; ++w) add(*reinterpret_cast<const float4*>(from + w * row_step), w);
  *reinterpret_cast<float4*>(a + h * stride + i) =
      make_float4(reduce.finish(state[0]), reduce.finish(state[1]), reduce.finish(state[2]), reduce.finish(state[3]));
}

}  // namespace

void window_attention(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* logits,
                      const float* softmax, RowReduction reduction, double alpha, float* a) {
  if (shard.L_lc == 0 || heads.Hq_lc() == 0) return;
  const dim3 grid(static_cast<unsigned>(heads.Hq_lc()), blocks_for(shard.stride, 4 * kThreads));
  RESTKV_CHECK(grid.y <= 65535, "window_attention: {} positions on one rank", shard.stride);
  attention_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(
      logits, reinterpret_cast<const float2*>(softmax), static_cast<int>(shard.W), shard.stride,
      row_order(reduction, shard.W), RowReducer(reduction, alpha, shard.W), a);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
