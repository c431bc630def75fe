// Products whose rows stand alone: into the residual stream, and plain.
#include "model/ops/decode_library.h"
#include "model/ops/decode_linear_launch.cuh"

namespace restkv::gpu {
namespace {

using decode::Activations;
using decode::Half;
using decode::kTileRows;
using decode::RowPair;

// Rows 16 t to 16 t + 15 in tile t.
struct PlainRows {
  const Half* w;
  int64_t ld;
  int n;

  __device__ RowPair rows(int tile, int g) const {
    int row = tile * kTileRows + g;
    return {row < n ? w + row * ld : nullptr, row + 8 < n ? w + (row + 8) * ld : nullptr};
  }
};

// y [batch, n] f32.
struct PlainOp : PlainRows {
  float* y;
  int64_t y_ld;

  struct Early {};
  __device__ Early early(int, int, int, int) const { return {}; }

  __device__ void finish(int tile, int column, int g, int batch, const Early&, float low, float high, int) const {
    if (column >= batch) return;
    int row = tile * kTileRows + g;
    float* to = y + column * y_ld;
    if (row < n) to[row] = low;
    if (row + 8 < n) to[row + 8] = high;
  }
};

// The residual stream: x += product, with what the next norm needs.
struct ResidualOp : PlainRows {
  float* x;        // [batch, n]
  Half* weighted;  // [batch, n]
  const float* norm;
  float* square_sums;  // [batch, parts]
  int parts;

  struct Early {
    float low[2], high[2];  // x of two sequences
    float norm_low, norm_high;
  };

  __device__ Early early(int tile, int column, int g, int batch) const {
    Early e{};
    int row = tile * kTileRows + g;
    bool has_low = row < n, has_high = row + 8 < n;
    if (has_low) e.norm_low = norm[row];
    if (has_high) e.norm_high = norm[row + 8];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float* from = x + static_cast<int64_t>(column + i) * n + row;
      if (has_low && column + i < batch) e.low[i] = __ldcg(from);
      if (has_high && column + i < batch) e.high[i] = __ldcg(from + 8);
    }
    return e;
  }

  __device__ void finish(int tile, int column, int g, int batch, const Early& e, float low, float high, int i) const {
    int row = tile * kTileRows + g;
    int64_t at = static_cast<int64_t>(column) * n + row;
    low = row < n ? low + e.low[i] : 0.0f;
    high = row + 8 < n ? high + e.high[i] : 0.0f;
    // In the order of stream_kernel (decode_stream_gpu.cu): elements 8 apart, then neighbours 1, 2 and 4 apart.
    float sum = __fadd_rn(__fmul_rn(low, low), __fmul_rn(high, high));
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, offset));
    if (column >= batch) return;
    if (row < n) {
      x[at] = low;
      weighted[at] = __float2bfloat16(low * e.norm_low);
    }
    if (row + 8 < n) {
      x[at + 8] = high;
      weighted[at + 8] = __float2bfloat16(high * e.norm_high);
    }
    if (g == 0 && row < n) square_sums[static_cast<int64_t>(column) * parts + tile] = sum;
  }
};

PlainRows plain_rows(const MatrixView& w) { return {w.row<Half>(0), w.ld, static_cast<int>(w.rows)}; }

int64_t tiles_of(const MatrixView& w) { return (w.rows + kTileRows - 1) / kTileRows; }

}  // namespace

void decode_residual(Context& ctx, const MatrixView& in, const MatrixView& w, const Tensor& norm,
                     const DecodeStream& stream) {
  static_assert(kSquareSumRows == kTileRows);
  if (stream.batch() > kStreamedBatch) return library::decode_residual(ctx, in, w, norm, stream);
  ResidualOp op{plain_rows(w),      stream.x.data<float>(),           static_cast<Half*>(stream.weighted.raw()),
                norm.data<float>(), stream.square_sums.data<float>(), static_cast<int>(stream.square_sums.size(1))};
  decode::launch_product(ctx, op, tiles_of(w), decode::plain_activations(in));
}

void decode_partial(Context& ctx, const MatrixView& in, const MatrixView& w, const MatrixView& y) {
  if (in.rows > kStreamedBatch) return gemm(ctx, in, w, y);
  decode::launch_product(ctx, PlainOp{plain_rows(w), y.row<float>(0), y.ld}, tiles_of(w),
                         decode::plain_activations(in));
}

void decode_logits(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& head, const MatrixView& y) {
  if (stream.batch() > kStreamedBatch) return library::decode_logits(ctx, stream, eps, head, y);
  decode::launch_product(ctx, PlainOp{plain_rows(head), y.row<float>(0), y.ld}, tiles_of(head),
                         decode::normed_activations(stream, eps));
}

}  // namespace restkv::gpu
