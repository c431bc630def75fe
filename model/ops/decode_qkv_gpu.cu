// Query, key and value projections in one launch, with bias and rotation.
#include "model/ops/decode_library.h"
#include "model/ops/decode_linear_launch.cuh"

namespace restkv::gpu {
namespace {

using decode::Half;
using decode::RowPair;

// A tile holds rows i to i + 7 and i + d/2 to i + d/2 + 7 of one head, so that the thread that adds up one of them has
// its partner as well.
struct QkvOp {
  const Half* w;  // any of the three: an address that can be named
  const Half* weights[3];
  int64_t ld[3];
  const float* bias[3];
  Half* y[3];
  int64_t y_ld[3];
  int first_tile[4];  // of q, k, v, and the end
  int half;           // d / 2
  const float* frequencies;
  int frequency_stride;
  const int32_t* positions;
  float rotation_factor;

  struct Place {
    int part, row;  // row of the lower element in that part's matrix
    int i;          // its place in the head
  };

  __device__ Place place(int tile, int g) const {
    int part = tile < first_tile[1] ? 0 : tile < first_tile[2] ? 1 : 2;
    int local = tile - first_tile[part], per_head = half / 8;
    int i = local % per_head * 8 + g;
    return {part, local / per_head * 2 * half + i, i};
  }

  __device__ RowPair rows(int tile, int g) const {
    if (tile >= first_tile[3]) return {nullptr, nullptr};
    Place p = place(tile, g);
    const Half* low = weights[p.part] + p.row * ld[p.part];
    return {low, low + half * ld[p.part]};
  }

  struct Early {
    float cos[2], sin[2];  // of two sequences
    float bias_low, bias_high;
  };

  __device__ Early early(int tile, int column, int g, int batch) const {
    Early e{{1.0f, 1.0f}, {0.0f, 0.0f}, 0.0f, 0.0f};
    if (tile >= first_tile[3]) return e;
    Place p = place(tile, g);
    if (bias[p.part] != nullptr) {
      e.bias_low = bias[p.part][p.row];
      e.bias_high = bias[p.part][p.row + half];
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (p.part == 2 || column + n >= batch) continue;
      // The accurate versions: angles reach the number of positions.
      float angle =
          static_cast<float>(__ldcg(positions + column + n)) * frequencies[(column + n) * frequency_stride + p.i];
      sincosf(angle, &e.sin[n], &e.cos[n]);
      e.sin[n] *= rotation_factor;
      e.cos[n] *= rotation_factor;
    }
    return e;
  }

  __device__ void finish(int tile, int column, int g, int batch, const Early& e, float low, float high, int n) const {
    if (tile >= first_tile[3] || column >= batch) return;
    Place p = place(tile, g);
    low += e.bias_low;
    high += e.bias_high;
    Half* to = y[p.part] + column * y_ld[p.part] + p.row;
    to[0] = __float2bfloat16(low * e.cos[n] - high * e.sin[n]);
    to[half] = __float2bfloat16(high * e.cos[n] + low * e.sin[n]);
  }
};

}  // namespace

void decode_qkv(Context& ctx, const DecodeStream& stream, double eps, const DecodeQkv& args) {
  if (stream.batch() > kStreamedBatch) return library::decode_qkv(ctx, stream, eps, args);
  QkvOp op{};
  const MatrixView* weights[3] = {&args.wq, &args.wk, &args.wv};
  const MatrixView* results[3] = {&args.q, &args.k, &args.v};
  const float* biases[3] = {args.q_bias, args.k_bias, args.v_bias};
  for (int part = 0; part < 3; ++part) {
    op.weights[part] = weights[part]->row<Half>(0);
    op.ld[part] = weights[part]->ld;
    op.bias[part] = biases[part];
    op.y[part] = results[part]->row<Half>(0);
    op.y_ld[part] = results[part]->ld;
    op.first_tile[part + 1] = op.first_tile[part] + static_cast<int>(weights[part]->rows / decode::kTileRows);
  }
  op.w = op.weights[0] != nullptr ? op.weights[0] : op.weights[1];
  op.half = static_cast<int>(args.d / 2);
  op.frequencies = args.frequencies;
  op.frequency_stride = static_cast<int>(args.frequency_stride);
  op.positions = args.positions;
  op.rotation_factor = args.rotation_factor;
  decode::launch_product(ctx, op, op.first_tile[3], decode::normed_activations(stream, eps));
}

}  // namespace restkv::gpu
