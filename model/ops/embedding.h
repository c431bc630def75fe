// Token embedding from a vocabulary shard.
#pragma once

#include <span>

#include "dist/base/gemm.h"
#include "dist/comm/partition.h"

namespace restkv {

/// table [vocab.size(), H] (f32 or bf16): rows of the tokens in `vocab`. y [n, H]: the token's row, or zeros when
/// another rank holds it (the sum over the tensor group is the embedding), times `scale`.
void embed(Context& ctx, const Tensor& table, Range vocab, std::span<const int32_t> tokens, const MatrixView& y,
           float scale = 1.0f);

namespace gpu {
/// tokens [n] on the device.
void embed(Context& ctx, const Tensor& table, Range vocab, const int32_t* tokens, const MatrixView& y, float scale);
}  // namespace gpu

}  // namespace restkv
