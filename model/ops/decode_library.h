// The products of decode_linear.h for more than kStreamedBatch sequences: cuBLASLt multiplies (gemm.h), small kernels
// do what stands between the products. Our own kernel reads the activations again for every few rows of weights, which
// costs more than these kernels and their launches from some 16 sequences on (decode_linear_bench). The algorithm
// follows the batch, so a sequence's bits do as well.
//
// Preconditions, shapes and units as in decode_linear.h. stream.products holds what a product leaves in between.
#pragma once

#include "model/ops/decode_linear.h"

namespace restkv::gpu::library {

void decode_qkv(Context&, const DecodeStream&, double eps, const DecodeQkv&);
void decode_residual(Context&, const MatrixView& in, const MatrixView& w, const Tensor& norm, const DecodeStream&);
void decode_gate_up(Context&, const DecodeStream&, double eps, const MatrixView& w_gate, const MatrixView& w_up,
                    Activation, const MatrixView& y);
void decode_logits(Context&, const DecodeStream&, double eps, const MatrixView& head, const MatrixView& y);

}  // namespace restkv::gpu::library
