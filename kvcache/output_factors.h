// R_h of the reconstruction norm: ||x W_O,h|| = ||R_h x|| with R_h^T R_h = W_O,h W_O,h^T, a d x d matrix instead of
// d x hidden. Computed once at load: on the CPU by a QR factorisation of the head's columns in fp64, on a GPU by a
// Cholesky factorisation of their Gram matrix in fp64 (in fp32 it is not positive definite for decaying spectra).
#pragma once

#include "dist/base/context.h"
#include "dist/base/gemm.h"

namespace restkv {

/// wo [hidden, Hq_lc * d]: this rank's columns of the output projection as a checkpoint stores it (f32 or bf16).
/// Returns [Hq_lc, d, d] f32, each upper triangular, rows with a non-negative diagonal. With tensor parallelism each
/// rank passes its own heads' columns; the rows are complete on every rank, so no exchange is needed. Waits for the
/// device.
Tensor output_factors(Context& ctx, const MatrixView& wo, int64_t heads, int64_t d);

namespace gpu {  // output_factors_gpu.cu
void output_factors(Context& ctx, const MatrixView& wo, int64_t heads, int64_t d, float* r);
}

}  // namespace restkv
