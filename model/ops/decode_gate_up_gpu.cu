// The first half of the MLP: both products and the activation in one launch.
#include "model/ops/decode_library.h"
#include "model/ops/decode_linear_launch.cuh"

namespace restkv::gpu {
namespace {

using decode::Half;
using decode::RowPair;

constexpr int kOutputs = decode::kTileRows / 2;  // of a tile

// A tile holds eight rows of gate and the same rows of up.
struct GateUpOp {
  const Half* w;  // gate
  int64_t ld;
  const Half* up;
  int64_t up_ld;
  int n;
  Activation activation;
  Half* y;
  int64_t y_ld;

  __device__ RowPair rows(int tile, int g) const {
    int row = tile * kOutputs + g;
    if (row >= n) return {nullptr, nullptr};
    return {w + row * ld, up + row * up_ld};
  }

  struct Early {};
  __device__ Early early(int, int, int, int) const { return {}; }

  __device__ void finish(int tile, int column, int g, int batch, const Early&, float gate, float up_value, int) const {
    int row = tile * kOutputs + g;
    if (row >= n || column >= batch) return;
    y[column * y_ld + row] = __float2bfloat16(decode::activate(activation, gate) * up_value);
  }
};

}  // namespace

void decode_gate_up(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& w_gate,
                    const MatrixView& w_up, Activation activation, const MatrixView& y) {
  if (stream.batch() > kStreamedBatch) return library::decode_gate_up(ctx, stream, eps, w_gate, w_up, activation, y);
  GateUpOp op{w_gate.row<Half>(0),           w_gate.ld,  w_up.row<Half>(0), w_up.ld,
              static_cast<int>(w_gate.rows), activation, y.row<Half>(0),    y.ld};
  decode::launch_product(ctx, op, (w_gate.rows + kOutputs - 1) / kOutputs, decode::normed_activations(stream, eps));
}

}  // namespace restkv::gpu
