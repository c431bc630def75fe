#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/ops/rope.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

// One thread turns eight pairs of neighbouring elements; a block takes one row.
__global__ void __launch_bounds__(kThreads)
    rope_kernel(__nv_bfloat16* x, int64_t ld, int octets, int half, const float* table) {
  const int64_t row = blockIdx.x;
  const float* cos = table + 2 * row * half;
  const float* sin = cos + half;
  for (int p = threadIdx.x; p < octets; p += kThreads) {
    const int head = p / (half / 8), i = p % (half / 8) * 8;
    __nv_bfloat16* low = x + row * ld + head * 2 * half + i;
    float a[8], b[8], turned_a[8], turned_b[8];
    unpack(load8(low), a);
    unpack(load8(low + half), b);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      turned_a[j] = a[j] * cos[i + j] - b[j] * sin[i + j];
      turned_b[j] = b[j] * cos[i + j] + a[j] * sin[i + j];
    }
    store8(low, pack(turned_a));
    store8(low + half, pack(turned_b));
  }
}

// The same for head sizes that are not multiples of 16: one pair per thread.
__global__ void __launch_bounds__(kThreads)
    rope_pair_kernel(__nv_bfloat16* x, int64_t ld, int pairs, int half, const float* table) {
  const int64_t row = blockIdx.x;
  const float* cos = table + 2 * row * half;
  const float* sin = cos + half;
  for (int p = threadIdx.x; p < pairs; p += kThreads) {
    const int head = p / half, i = p % half;
    __nv_bfloat16* low = x + row * ld + head * 2 * half + i;
    __nv_bfloat16* high = low + half;
    float a = __bfloat162float(*low), b = __bfloat162float(*high);
    *low = __float2bfloat16(a * cos[i] - b * sin[i]);
    *high = __float2bfloat16(b * cos[i] + a * sin[i]);
  }
}

__global__ void table_kernel(const float* frequencies, const int64_t* positions, int half, float factor, float* table) {
  int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    float angle = static_cast<float>(positions[row]) * frequencies[i];
    // The accurate versions: angles reach the number of positions.
    table[2 * row * half + i] = cosf(angle) * factor;
    table[(2 * row + 1) * half + i] = sinf(angle) * factor;
  }
}

}  // namespace

void rope_table(Context& ctx, const float* frequencies, const int64_t* positions, int64_t n, int64_t half, float factor,
                float* table) {
  if (n == 0) return;
  table_kernel<<<static_cast<unsigned>(n), 64, 0, stream_of(ctx)>>>(frequencies, positions, static_cast<int>(half),
                                                                    factor, table);
  RESTKV_KERNEL_CHECK();
}

void apply_rope(Context& ctx, const MatrixView& x, int64_t d, const float* table) {
  RESTKV_CHECK(x.dtype == DType::bf16, "apply_rope on a GPU: {}, bf16 needed", name_of(x.dtype));
  if (x.rows == 0 || x.cols == 0) return;
  const int half = static_cast<int>(d / 2), pairs = static_cast<int>(x.cols / 2);
  const unsigned blocks = static_cast<unsigned>(x.rows);
  if (half % 8 == 0 && x.ld % 8 == 0)
    rope_kernel<<<blocks, kThreads, 0, stream_of(ctx)>>>(x.row<__nv_bfloat16>(0), x.ld, pairs / 8, half, table);
  else
    rope_pair_kernel<<<blocks, kThreads, 0, stream_of(ctx)>>>(x.row<__nv_bfloat16>(0), x.ld, pairs, half, table);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
