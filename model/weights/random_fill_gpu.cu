#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/weights/random_fill.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

/// mix64 of dist/base/mix.h, for the device.
__device__ inline uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

__device__ inline float element(uint64_t word, float half_width, float center) {
  // 2 unit_interval - 1 is (upper 53 bits - 2^52) / 2^52, exact before it is rounded to float; the division by a power
  // of two rounds nothing.
  float u = __ll2float_rn(static_cast<long long>(word >> 11) - (1ll << 52)) * 0x1p-52f;
  return fmaf(half_width, u, center);
}

__device__ inline void put(float* out, __nv_bfloat16 value) { *out = __bfloat162float(value); }
__device__ inline void put(__nv_bfloat16* out, __nv_bfloat16 value) { *out = value; }

/// Eight elements at out, which is aligned to eight of them.
__device__ inline void put8(__nv_bfloat16* out, const float (&x)[8]) { store8(out, pack(x)); }
__device__ inline void put8(float* out, const float (&x)[8]) {
  float y[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) y[i] = __bfloat162float(__float2bfloat16_rn(x[i]));
  auto* to = reinterpret_cast<float4*>(out);
  to[0] = make_float4(y[0], y[1], y[2], y[3]);
  to[1] = make_float4(y[4], y[5], y[6], y[7]);
}

/// One block takes whole rows in turn; thread t the elements 8 t, 8 (t + kThreads), ... of a row, or with `kVector`
/// false t, t + kThreads, ...
template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads)
    fill_rows(T* out, uint64_t key, int64_t width, int64_t first_row, int64_t first_col, int64_t rows, int64_t cols,
              float half_width, float center) {
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    uint64_t start = key + static_cast<uint64_t>((first_row + r) * width + first_col);
    T* row = out + r * cols;
    if (kVector) {
      for (int64_t c = threadIdx.x * 8; c < cols; c += kThreads * 8) {
        float x[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = element(mix(start + static_cast<uint64_t>(c + i)), half_width, center);
        put8(row + c, x);
      }
    } else {
      for (int64_t c = threadIdx.x; c < cols; c += kThreads)
        put(row + c, __float2bfloat16_rn(element(mix(start + static_cast<uint64_t>(c)), half_width, center)));
    }
  }
}

template <class T>
void launch(Context& ctx, const RandomElements& e, T* out) {
  int64_t rows = e.rows.size(), cols = e.cols.size();
  auto blocks = static_cast<unsigned>(std::min<int64_t>(rows, int64_t{ctx.gpu()->multiprocessors()} * 32));
  bool aligned = cols % 8 == 0 && reinterpret_cast<uintptr_t>(out) % (8 * sizeof(T)) == 0;
  auto kernel = aligned ? fill_rows<T, true> : fill_rows<T, false>;
  kernel<<<blocks, kThreads, 0, stream_of(ctx)>>>(out, e.key, e.width, e.rows.begin, e.cols.begin, rows, cols,
                                                  e.half_width, e.center);
  RESTKV_KERNEL_CHECK();
}

}  // namespace

void random_fill(Context& ctx, const RandomElements& elements, DType dtype, void* out) {
  if (dtype == DType::f32)
    launch(ctx, elements, static_cast<float*>(out));
  else
    launch(ctx, elements, static_cast<__nv_bfloat16*>(out));
}

}  // namespace restkv::gpu
