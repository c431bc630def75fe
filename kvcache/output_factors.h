// R_h of the reconstruction norm: ||x W_O,h|| = ||R_h x|| with R_h^T R_h = W_O,h W_O,h^T, a d x d matrix instead of
// d x hidden. Computed once at load, by a QR factorisation of the head's columns in fp64 (the Gram matrix in fp32 is
// not positive definite for decaying spectra).
#pragma once

#include "dist/base/context.h"
#include "dist/base/gemm.h"

namespace restkv {

/// wo [hidden, Hq_lc * d]: this rank's columns of the output projection as a checkpoint stores it (f32 or bf16).
/// Returns [Hq_lc, d, d] f32, each upper triangular, rows with a non-negative diagonal. With tensor parallelism each
/// rank passes its own heads' columns; the rows are complete on every rank, so no exchange is needed.
Tensor output_factors(Context& ctx, const MatrixView& wo, int64_t heads, int64_t d);

}  // namespace restkv
