#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/ops/rms_norm.h"

namespace restkv::gpu {
namespace {

// One warp per row, which it holds in registers between the sum and the scaling: all its loads are in flight at once,
// and no barrier joins warps.
constexpr int kWarps = 4;
constexpr int kWidest = 16;  // vectors of eight per lane: rows of up to 4096

template <class T>
struct alignas(16) Octet {
  T value[8];
};

template <int kVectors, class T, class Y>
__global__ void __launch_bounds__(32 * kWarps)
    rms_norm_kernel(const T* x, int64_t x_ld, const float* w, Y* y, int64_t y_ld, int64_t rows, int H, float eps) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows) return;
  const T* from = x + row * x_ld;
  Y* to = y + row * y_ld;
  Octet<T> packed[kVectors];
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int c = (j * 32 + lane) * 8;
    packed[j] = c < H ? *reinterpret_cast<const Octet<T>*>(from + c) : Octet<T>{};
  }
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    float value[8];
    load_floats(packed[j].value, value);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += value[i] * value[i];
  }
  const float scale = rsqrtf(warp_sum(sum) / static_cast<float>(H) + eps);
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int c = (j * 32 + lane) * 8;
    if (c >= H) break;
    float value[8];
    load_floats(packed[j].value, value);
    const float4 low = *reinterpret_cast<const float4*>(w + c), high = *reinterpret_cast<const float4*>(w + c + 4);
    const float weight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= scale * weight[i];
    store_floats(to + c, value);
  }
}

// Rows wider than a warp's registers: one block per row, which is read twice.
constexpr int kThreads = 512;

template <class T, class Y>
__global__ void __launch_bounds__(kThreads)
    wide_rms_norm_kernel(const T* x, int64_t x_ld, const float* w, Y* y, int64_t y_ld, int H, float eps) {
  __shared__ float scratch[32];
  const T* from = x + blockIdx.x * x_ld;
  float sum = 0.0f, value[8];
  for (int c = threadIdx.x * 8; c < H; c += kThreads * 8) {
    load_floats(from + c, value);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += value[i] * value[i];
  }
  const float scale = rsqrtf(block_sum(sum, scratch) / static_cast<float>(H) + eps);
  for (int c = threadIdx.x * 8; c < H; c += kThreads * 8) {
    load_floats(from + c, value);
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= scale * w[c + i];
    store_floats(y + blockIdx.x * y_ld + c, value);
  }
}

// Picks the smallest instance that holds a row.
template <int kVectors, class T, class Y>
void launch(Context& ctx, const MatrixView& x, const float* w, const MatrixView& y, float eps) {
  if constexpr (kVectors > kWidest) {
    wide_rms_norm_kernel<T, Y><<<static_cast<unsigned>(x.rows), kThreads, 0, stream_of(ctx)>>>(
        x.row<T>(0), x.ld, w, y.row<Y>(0), y.ld, static_cast<int>(x.cols), eps);
  } else {
    if (x.cols > kVectors * 256) return launch<2 * kVectors, T, Y>(ctx, x, w, y, eps);
    const unsigned blocks = static_cast<unsigned>((x.rows + kWarps - 1) / kWarps);
    rms_norm_kernel<kVectors, T, Y><<<blocks, 32 * kWarps, 0, stream_of(ctx)>>>(x.row<T>(0), x.ld, w, y.row<Y>(0), y.ld,
                                                                                x.rows, static_cast<int>(x.cols), eps);
  }
  RESTKV_KERNEL_CHECK();
}

}  // namespace

void rms_norm(Context& ctx, const MatrixView& x, const float* w, const MatrixView& y, double eps) {
  const bool from_f32 = x.dtype == DType::f32, to_f32 = y.dtype == DType::f32;
  RESTKV_CHECK((from_f32 || x.dtype == DType::bf16) && (y.dtype == DType::bf16 || (from_f32 && to_f32)),
               "rms_norm on a GPU: {} into {}; bf16 into bf16, or f32 into bf16 or f32 needed", name_of(x.dtype),
               name_of(y.dtype));
  RESTKV_CHECK(x.cols % 8 == 0 && x.ld % 8 == 0 && y.ld % 8 == 0, "rms_norm on a GPU: rows of {} (multiples of 8)",
               x.cols);
  if (x.rows == 0) return;
  const auto small = static_cast<float>(eps);
  if (to_f32)
    launch<1, float, float>(ctx, x, w, y, small);
  else if (from_f32)
    launch<1, float, __nv_bfloat16>(ctx, x, w, y, small);
  else
    launch<1, __nv_bfloat16, __nv_bfloat16>(ctx, x, w, y, small);
}

}  // namespace restkv::gpu
