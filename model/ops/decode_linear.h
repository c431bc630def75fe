// The matrix products of a decode step: one token each of `batch` sequences, 1 to kMaxDecodeBatch. Every weight is
// read once, and what stands between the products (RMS norm, bias, rotation, activation, residual) is part of them, so
// that a layer has no pass of its own for it.
//
// RMSNorm (Zhang and Sennrich, 2019) is split in two. Whatever produces the residual stream x also writes x * w of the
// norm that follows, and partial sums of x^2; a product that consumes the stream multiplies its results by
// 1 / sqrt(sum / H + eps), which does not depend on the element and may therefore stand after the sum over elements.
//
// Column b of a result (sequence b) depends on row b of the activations and on the weights alone: not on the other
// sequences, and on a GPU up to kStreamedBatch sequences not on `batch` either, bit for bit. Beyond that cuBLASLt
// multiplies (decode_library.h), whose order of sums follows the batch.
//
// dtypes, on GPUs: activations, weights and tables bf16; x, norm weights, biases, logits f32. On CPU ranks (the same
// functions in plain arithmetic): activations f32, weights f32 or bf16. Matrices on GPUs start at 16-byte boundaries,
// and their leading dimensions and numbers of columns K are multiples of 8 (checked, RuntimeFailure). Nothing here
// allocates or waits on a GPU, so a step can be captured in a graph: shapes and pointers are fixed, tokens and
// positions are read on the device.
#pragma once

#include "dist/base/gemm.h"
#include "dist/comm/partition.h"
#include "model/config.h"

namespace restkv {

/// Sequences that are decoded together on a GPU at most (kMaxAttentionBatch of attention_decode.h holds as many).
inline constexpr int64_t kMaxDecodeBatch = 64;

/// On a GPU, sequences up to which weights are streamed by our own kernel (decode_linear_kernel.cuh); for more cuBLASLt
/// is faster (measured: tests/bench/decode_linear_bench, model/README.md).
inline constexpr int64_t kStreamedBatch = 16;

/// Elements of x per partial sum of squares.
inline constexpr int64_t kSquareSumRows = 16;

/// The residual stream between two products.
struct DecodeStream {
  Tensor x;            ///< [batch, H] f32
  Tensor weighted;     ///< [batch, H] x times the weight of the next norm: bf16, on CPU ranks f32
  Tensor square_sums;  ///< [batch, ceil(H / kSquareSumRows)] f32: sums of x^2 over runs of kSquareSumRows elements
  Tensor products;     ///< GPUs, more than kStreamedBatch sequences: [batch, width] f32 scratch; else empty

  int64_t batch() const { return x.size(0); }
  int64_t hidden() const { return x.size(1); }
  /// The first n sequences, sharing the memory.
  DecodeStream first(int64_t n) const { return {x.rows(0, n), weighted.rows(0, n), square_sums.rows(0, n), products}; }
};

/// Uninitialised memory for a stream whose products have up to `width` columns (query, key and value heads together;
/// gate and up together); at least H are allowed for.
DecodeStream make_decode_stream(Context& ctx, int64_t batch, int64_t H, int64_t width = 0);

/// stream.x = rows of the embedding table times `scale`, and the rest of the stream for the norm with weight `norm`
/// [H]. tokens [batch] i32; table [vocab.size(), H]; tokens outside `vocab` give zeros (the sum over the tensor group
/// is the embedding).
void decode_embed(Context& ctx, const Tensor& tokens, const Tensor& table, Range vocab, const Tensor& norm,
                  const DecodeStream& stream, float scale = 1.0f);

/// Makes weighted and square_sums fit x, after something else changed it (a sum over the tensor group).
void prepare_stream(Context& ctx, const Tensor& norm, const DecodeStream& stream);

/// Adds `terms` [batch, H] f32 to x, then as prepare_stream: what follows decode_partial and a sum over a tensor group.
void add_to_stream(Context& ctx, const Tensor& terms, const Tensor& norm, const DecodeStream& stream);

/// The query, key and value projections, q and k rotated (rope.h: element i with i + d/2, angle = position *
/// frequencies[i]).
struct DecodeQkv {
  MatrixView wq, wk, wv;               ///< [Hq_lc d, H], [Hkv_lc d, H], [Hkv_lc d, H]
  const float* q_bias = nullptr;       ///< [Hq_lc d] or null, added before the rotation
  const float* k_bias = nullptr;       ///< [Hkv_lc d] or null
  const float* v_bias = nullptr;       ///< [Hkv_lc d] or null
  int64_t d = 0;                       ///< a multiple of 16
  const float* frequencies = nullptr;  ///< [d/2] inverse frequencies, on the device
  int64_t frequency_stride = 0;        ///< 0: the same for all sequences; else sequence b's begin at b times it
  const int32_t* positions = nullptr;  ///< [batch], on the device
  float rotation_factor = 1.0f;        ///< cos and sin are multiplied by it (RopeConfig::attention_factor)
  MatrixView q, k, v;                  ///< results [batch, Hq_lc d], [batch, Hkv_lc d], [batch, Hkv_lc d]
};
void decode_qkv(Context& ctx, const DecodeStream& stream, double eps, const DecodeQkv& args);

/// stream.x += in w^T, and the rest of the stream for the norm with weight `norm` [H]. in [batch, K], w [H, K]; K may
/// be 0.
void decode_residual(Context& ctx, const MatrixView& in, const MatrixView& w, const Tensor& norm,
                     const DecodeStream& stream);

/// y [batch, H] f32 = in w^T: this rank's term of a sum over the tensor group. K may be 0 (y is zero).
void decode_partial(Context& ctx, const MatrixView& in, const MatrixView& w, const MatrixView& y);

/// y [batch, I] = activation(gate) * up, of the normed stream. w_gate, w_up [I, H].
void decode_gate_up(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& w_gate,
                    const MatrixView& w_up, Activation activation, const MatrixView& y);

/// y [batch, vocab_lc] f32: logits of the normed stream. head [vocab_lc, H].
void decode_logits(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& head, const MatrixView& y);

namespace cpu {
void decode_embed(Context&, const Tensor& tokens, const Tensor& table, Range vocab, const Tensor& norm,
                  const DecodeStream&, float scale);
void prepare_stream(Context&, const Tensor* terms, const Tensor& norm, const DecodeStream&);
void decode_qkv(Context&, const DecodeStream&, double eps, const DecodeQkv&);
void decode_residual(Context&, const MatrixView& in, const MatrixView& w, const Tensor& norm, const DecodeStream&);
void decode_gate_up(Context&, const DecodeStream&, double eps, const MatrixView& w_gate, const MatrixView& w_up,
                    Activation, const MatrixView& y);
void decode_logits(Context&, const DecodeStream&, double eps, const MatrixView& head, const MatrixView& y);
}  // namespace cpu

namespace gpu {
// In stream order; launched so that their first weights are fetched while the kernel before them ends.
void decode_embed(Context&, const Tensor& tokens, const Tensor& table, Range vocab, const Tensor& norm,
                  const DecodeStream&, float scale);
/// `terms` may be null.
void prepare_stream(Context&, const Tensor* terms, const Tensor& norm, const DecodeStream&);
void decode_qkv(Context&, const DecodeStream&, double eps, const DecodeQkv&);
void decode_residual(Context&, const MatrixView& in, const MatrixView& w, const Tensor& norm, const DecodeStream&);
void decode_partial(Context&, const MatrixView& in, const MatrixView& w, const MatrixView& y);
void decode_gate_up(Context&, const DecodeStream&, double eps, const MatrixView& w_gate, const MatrixView& w_up,
                    Activation, const MatrixView& y);
void decode_logits(Context&, const DecodeStream&, double eps, const MatrixView& head, const MatrixView& y);
}  // namespace gpu

}  // namespace restkv
