// How a product of decode_linear.h of up to kStreamedBatch sequences is cut. All cuts give the same bits.
#pragma once

#include "model/ops/decode_linear_kernel.cuh"

namespace restkv::gpu::decode {

/// Runs the product of `tiles` tiles. Preconditions: those of decode_linear.h. Streamed activations are read again for
/// every group of RT tiles: large batches want large groups, small matrices groups enough for all places on the SMs.
/// (The limits are measured: H200, shapes of an 8B model, tests/bench/decode_linear_bench.cc.)
template <class Op>
void launch_product(Context& ctx, const Op& op, int64_t tiles64, const Activations& in) {
  if (tiles64 == 0) return;
  const int tiles = static_cast<int>(tiles64), places = kBlocksPerSm * ctx.gpu()->multiprocessors();
  if (in.batch <= 8) {
    if (tiles <= places) return launch_groups<1, 1>(ctx, op, tiles, in);
    if (fits<9>(in)) return launch_groups<1, 1, 9>(ctx, op, tiles, in);
    if (fits<5>(in)) return launch_groups<1, 1, 5>(ctx, op, tiles, in);
    return launch_groups<2, 1>(ctx, op, tiles, in);
  }
  static_assert(kStreamedBatch == 16);
  if (tiles <= 2 * places) return launch_groups<2, 2>(ctx, op, tiles, in);
  launch_groups<3, 2>(ctx, op, tiles, in);
}

inline Activations plain_activations(const MatrixView& in) {
  return {in.row<Half>(0), in.ld, static_cast<int>(in.cols), static_cast<int>(in.rows), nullptr, 0, 1.0f, 0.0f};
}

inline Activations normed_activations(const DecodeStream& stream, double eps) {
  return {static_cast<const Half*>(stream.weighted.raw()),
          stream.hidden(),
          static_cast<int>(stream.hidden()),
          static_cast<int>(stream.batch()),
          stream.square_sums.data<float>(),
          static_cast<int>(stream.square_sums.size(1)),
          static_cast<float>(stream.hidden()),
          static_cast<float>(eps)};
}

}  // namespace restkv::gpu::decode
