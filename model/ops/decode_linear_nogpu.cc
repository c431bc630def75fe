// The GPU versions of decode_linear.h in a build without CUDA. A context cannot be on a GPU there, so none of these is
// reached.
#include "dist/base/error.h"
#include "model/ops/decode_linear.h"

namespace restkv::gpu {
namespace {

[[noreturn]] void absent() { fail_runtime("a decode product on a GPU: this build has no CUDA backend"); }

}  // namespace

void decode_embed(Context&, const Tensor&, const Tensor&, Range, const Tensor&, const DecodeStream&, float) {
  absent();
}
void prepare_stream(Context&, const Tensor*, const Tensor&, const DecodeStream&) { absent(); }
void decode_qkv(Context&, const DecodeStream&, double, const DecodeQkv&) { absent(); }
void decode_residual(Context&, const MatrixView&, const MatrixView&, const Tensor&, const DecodeStream&) { absent(); }
void decode_partial(Context&, const MatrixView&, const MatrixView&, const MatrixView&) { absent(); }
void decode_gate_up(Context&, const DecodeStream&, double, const MatrixView&, const MatrixView&, Activation,
                    const MatrixView&) {
  absent();
}
void decode_logits(Context&, const DecodeStream&, double, const MatrixView&, const MatrixView&) { absent(); }

}  // namespace restkv::gpu
