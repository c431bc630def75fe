#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/ops/embedding.h"

namespace restkv::gpu {
namespace {

__global__ void embed_kernel(const __nv_bfloat16* table, int64_t first, int64_t last, const int32_t* tokens,
                             __nv_bfloat16* y, int64_t ld, int H) {
  int64_t token = tokens[blockIdx.x];
  bool mine = first <= token && token < last;
  for (int c = threadIdx.x * 8; c < H; c += blockDim.x * 8) {
    Bf16x8 v{};
    if (mine) v = load8(table + (token - first) * H + c);
    store8(y + blockIdx.x * ld + c, v);
  }
}

}  // namespace

void embed(Context& ctx, const Tensor& table, Range vocab, const int32_t* tokens, const MatrixView& y) {
  RESTKV_CHECK(table.dtype() == DType::bf16 && y.dtype == DType::bf16, "embed on a GPU: {} into {}, bf16 needed",
               name_of(table.dtype()), name_of(y.dtype));
  RESTKV_CHECK(y.cols % 8 == 0 && y.ld % 8 == 0, "embed on a GPU: rows of {} (multiples of 8)", y.cols);
  if (y.rows == 0) return;
  embed_kernel<<<static_cast<unsigned>(y.rows), 256, 0, stream_of(ctx)>>>(
      static_cast<const __nv_bfloat16*>(table.raw()), vocab.begin, vocab.end, tokens, y.row<__nv_bfloat16>(0), y.ld,
      static_cast<int>(y.cols));
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
