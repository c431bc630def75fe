#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/ops/embedding.h"

namespace restkv::gpu {
namespace {

template <class T>
__global__ void embed_kernel(const __nv_bfloat16* table, int64_t first, int64_t last, const int32_t* tokens, T* y,
                             int64_t ld, int H, float scale) {
  int64_t token = tokens[blockIdx.x];
  bool mine = first <= token && token < last;
  for (int c = threadIdx.x * 8; c < H; c += blockDim.x * 8) {
    float v[8] = {};
    if (mine) load_floats(table + (token - first) * H + c, v);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] *= scale;
    store_floats(y + blockIdx.x * ld + c, v);
  }
}

}  // namespace

void embed(Context& ctx, const Tensor& table, Range vocab, const int32_t* tokens, const MatrixView& y, float scale) {
  RESTKV_CHECK(table.dtype() == DType::bf16 && (y.dtype == DType::bf16 || y.dtype == DType::f32),
               "embed on a GPU: {} into {}; bf16 into bf16 or f32 needed", name_of(table.dtype()), name_of(y.dtype));
  RESTKV_CHECK(y.cols % 8 == 0 && y.ld % 8 == 0, "embed on a GPU: rows of {} (multiples of 8)", y.cols);
  if (y.rows == 0) return;
  auto run = [&](auto* out) {
    embed_kernel<<<static_cast<unsigned>(y.rows), 256, 0, stream_of(ctx)>>>(
        static_cast<const __nv_bfloat16*>(table.raw()), vocab.begin, vocab.end, tokens, out, y.ld,
        static_cast<int>(y.cols), scale);
  };
  if (y.dtype == DType::f32)
    run(y.row<float>(0));
  else
    run(y.row<__nv_bfloat16>(0));
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
