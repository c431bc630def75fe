#include "dist/base/gpu_handles.h"
#include "dist/base/gpu_math.h"
#include "model/ops/swiglu.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

// One thread makes eight outputs of one row. kGelu: GeGLU instead of SwiGLU.
template <bool kGelu>
__global__ void __launch_bounds__(kThreads)
    gated_kernel(const __nv_bfloat16* gate_up, int64_t ld, __nv_bfloat16* y, int64_t y_ld, int I) {
  int c = (blockIdx.x * kThreads + threadIdx.x) * 8;
  if (c >= I) return;
  const __nv_bfloat16* row = gate_up + static_cast<int64_t>(blockIdx.y) * ld;
  float gate[8], up[8];
  unpack(load8(row + c), gate);
  unpack(load8(row + I + c), up);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float g = gate[i], exponent = kGelu ? 1.5957691216f * (g + 0.044715f * g * g * g) : g;
    gate[i] = g / (1.0f + __expf(-exponent)) * up[i];
  }
  store8(y + static_cast<int64_t>(blockIdx.y) * y_ld + c, pack(gate));
}

template <bool kGelu>
void launch(Context& ctx, const MatrixView& gate_up, const MatrixView& y) {
  RESTKV_CHECK(gate_up.dtype == DType::bf16 && y.dtype == DType::bf16,
               "gated activation on a GPU: {} into {}, bf16 needed", name_of(gate_up.dtype), name_of(y.dtype));
  RESTKV_CHECK(y.cols % 8 == 0 && y.ld % 8 == 0 && gate_up.ld % 8 == 0,
               "gated activation on a GPU: {} columns (multiples of 8)", y.cols);
  // The grid's second dimension ends at 65535 rows.
  constexpr int64_t kRows = 65535;
  for (int64_t first = 0; first < y.rows; first += kRows) {
    int64_t rows = y.rows - first < kRows ? y.rows - first : kRows;
    dim3 grid(static_cast<unsigned>((y.cols / 8 + kThreads - 1) / kThreads), static_cast<unsigned>(rows));
    gated_kernel<kGelu><<<grid, kThreads, 0, stream_of(ctx)>>>(
        gate_up.row<__nv_bfloat16>(first), gate_up.ld, y.row<__nv_bfloat16>(first), y.ld, static_cast<int>(y.cols));
    RESTKV_KERNEL_CHECK();
  }
}

}  // namespace

void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y) { launch<false>(ctx, gate_up, y); }

void geglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y) { launch<true>(ctx, gate_up, y); }

}  // namespace restkv::gpu
