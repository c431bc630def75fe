#include "model/ops/decode_linear.h"

#include <algorithm>

#include "model/ops/dispatch.h"

namespace restkv {
namespace {

// The dtype of activations on this rank.
DType activation_dtype(const Context& ctx) { return on_gpu(ctx) ? DType::bf16 : DType::f32; }

void check_stream(const Context& ctx, const DecodeStream& stream) {
  const Tensor &x = stream.x, &weighted = stream.weighted, &sums = stream.square_sums;
  bool shapes = x.shape().size() == 2 && weighted.shape() == x.shape() && sums.shape().size() == 2 &&
                sums.size(0) == x.size(0) && sums.size(1) == (x.size(1) + kSquareSumRows - 1) / kSquareSumRows;
  RESTKV_CHECK(
      shapes && x.dtype() == DType::f32 && weighted.dtype() == activation_dtype(ctx) && sums.dtype() == DType::f32,
      "decode stream: x {}, weighted {}, square_sums {}", x.describe(), weighted.describe(), sums.describe());
  RESTKV_CHECK(stream.batch() >= 1 && stream.batch() <= kMaxDecodeBatch, "decode batch {} (1 to {})", stream.batch(),
               kMaxDecodeBatch);
}

void check_norm(const DecodeStream& stream, const Tensor& norm) {
  RESTKV_CHECK(norm.dtype() == DType::f32 && norm.numel() == stream.hidden(), "norm weight {} for {} elements",
               norm.describe(), stream.hidden());
}

// A matrix that a product reads.
void check_operand(const Context& ctx, const char* name, const MatrixView& m, int64_t cols) {
  RESTKV_CHECK(m.cols == cols && m.ld >= m.cols, "{} [{}, {}] with leading dimension {}, {} columns needed", name,
               m.rows, m.cols, m.ld, cols);
  if (on_gpu(ctx)) {
    RESTKV_CHECK(m.dtype == DType::bf16, "{} is {}; bf16 needed on a GPU", name, name_of(m.dtype));
    RESTKV_CHECK(cols % 8 == 0 && m.ld % 8 == 0 && reinterpret_cast<uintptr_t>(m.data) % 16 == 0,
                 "{} [{}, {}] at {} with leading dimension {}: columns and leading dimension must be multiples of 8, "
                 "the start of 16 bytes",
                 name, m.rows, m.cols, m.data, m.ld);
  } else {
    RESTKV_CHECK(m.dtype == DType::f32 || m.dtype == DType::bf16, "{} is {}; f32 or bf16 needed", name,
                 name_of(m.dtype));
  }
}

// A matrix [batch, n] that a product writes.
void check_result(const char* name, const MatrixView& m, int64_t batch, int64_t n, DType dtype) {
  RESTKV_CHECK(m.rows == batch && m.cols == n && m.ld >= n && m.dtype == dtype,
               "{} is {} [{}, {}] with leading dimension {}; {} [{}, {}] needed", name, name_of(m.dtype), m.rows,
               m.cols, m.ld, name_of(dtype), batch, n);
}

}  // namespace

DecodeStream make_decode_stream(Context& ctx, int64_t batch, int64_t H, int64_t width) {
  DecodeStream stream{ctx.empty(DType::f32, {batch, H}),
                      ctx.empty(activation_dtype(ctx), {batch, H}),
                      ctx.empty(DType::f32, {batch, (H + kSquareSumRows - 1) / kSquareSumRows}),
                      {}};
  if (on_gpu(ctx) && batch > kStreamedBatch) stream.products = ctx.empty(DType::f32, {batch, std::max(H, width)});
  return stream;
}

void decode_embed(Context& ctx, const Tensor& tokens, const Tensor& table, Range vocab, const Tensor& norm,
                  const DecodeStream& stream, float scale) {
  check_stream(ctx, stream);
  check_norm(stream, norm);
  RESTKV_CHECK(tokens.dtype() == DType::i32 && tokens.numel() == stream.batch(), "tokens {} for a batch of {}",
               tokens.describe(), stream.batch());
  RESTKV_CHECK(table.shape() == (Shape{vocab.size(), stream.hidden()}), "table {} for {} tokens of {} elements",
               table.describe(), vocab.size(), stream.hidden());
  if (on_gpu(ctx)) return gpu::decode_embed(ctx, tokens, table, vocab, norm, stream, scale);
  cpu::decode_embed(ctx, tokens, table, vocab, norm, stream, scale);
}

void prepare_stream(Context& ctx, const Tensor& norm, const DecodeStream& stream) {
  check_stream(ctx, stream);
  check_norm(stream, norm);
  if (on_gpu(ctx)) return gpu::prepare_stream(ctx, nullptr, norm, stream);
  cpu::prepare_stream(ctx, nullptr, norm, stream);
}

void add_to_stream(Context& ctx, const Tensor& terms, const Tensor& norm, const DecodeStream& stream) {
  check_stream(ctx, stream);
  check_norm(stream, norm);
  RESTKV_CHECK(terms.dtype() == DType::f32 && terms.shape() == stream.x.shape(), "terms {} for x {}", terms.describe(),
               stream.x.describe());
  if (on_gpu(ctx)) return gpu::prepare_stream(ctx, &terms, norm, stream);
  cpu::prepare_stream(ctx, &terms, norm, stream);
}

void decode_qkv(Context& ctx, const DecodeStream& stream, double eps, const DecodeQkv& args) {
  check_stream(ctx, stream);
  check_operand(ctx, "w_q", args.wq, stream.hidden());
  check_operand(ctx, "w_k", args.wk, stream.hidden());
  check_operand(ctx, "w_v", args.wv, stream.hidden());
  RESTKV_CHECK(args.d > 0 && args.d % 16 == 0, "head size {}: a multiple of 16 needed", args.d);
  RESTKV_CHECK(args.wq.rows % args.d == 0 && args.wk.rows % args.d == 0 && args.wk.rows == args.wv.rows,
               "rows {}, {}, {} of w_q, w_k, w_v are not whole heads of {}", args.wq.rows, args.wk.rows, args.wv.rows,
               args.d);
  RESTKV_CHECK(args.wq.dtype == args.wk.dtype && args.wq.dtype == args.wv.dtype, "w_q {}, w_k {}, w_v {}",
               name_of(args.wq.dtype), name_of(args.wk.dtype), name_of(args.wv.dtype));
  RESTKV_CHECK(args.frequencies != nullptr && args.positions != nullptr, "decode_qkv without frequencies or positions");
  DType dtype = activation_dtype(ctx);
  check_result("q", args.q, stream.batch(), args.wq.rows, dtype);
  check_result("k", args.k, stream.batch(), args.wk.rows, dtype);
  check_result("v", args.v, stream.batch(), args.wv.rows, dtype);
  if (on_gpu(ctx)) return gpu::decode_qkv(ctx, stream, eps, args);
  cpu::decode_qkv(ctx, stream, eps, args);
}

void decode_residual(Context& ctx, const MatrixView& in, const MatrixView& w, const Tensor& norm,
                     const DecodeStream& stream) {
  check_stream(ctx, stream);
  check_norm(stream, norm);
  check_operand(ctx, "in", in, w.cols);
  check_operand(ctx, "w", w, in.cols);
  RESTKV_CHECK(in.rows == stream.batch() && w.rows == stream.hidden(), "in [{}, {}], w [{}, {}] for x {}", in.rows,
               in.cols, w.rows, w.cols, stream.x.describe());
  if (on_gpu(ctx)) return gpu::decode_residual(ctx, in, w, norm, stream);
  cpu::decode_residual(ctx, in, w, norm, stream);
}

void decode_partial(Context& ctx, const MatrixView& in, const MatrixView& w, const MatrixView& y) {
  check_operand(ctx, "in", in, w.cols);
  check_operand(ctx, "w", w, in.cols);
  check_result("y", y, in.rows, w.rows, DType::f32);
  RESTKV_CHECK(in.rows >= 1 && in.rows <= kMaxDecodeBatch, "decode batch {} (1 to {})", in.rows, kMaxDecodeBatch);
  if (on_gpu(ctx)) return gpu::decode_partial(ctx, in, w, y);
  gemv(ctx, in, w, y);
}

void decode_gate_up(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& w_gate,
                    const MatrixView& w_up, Activation activation, const MatrixView& y) {
  check_stream(ctx, stream);
  check_operand(ctx, "w_gate", w_gate, stream.hidden());
  check_operand(ctx, "w_up", w_up, stream.hidden());
  RESTKV_CHECK(w_gate.rows == w_up.rows && w_gate.dtype == w_up.dtype, "w_gate {} [{}, ..], w_up {} [{}, ..]",
               name_of(w_gate.dtype), w_gate.rows, name_of(w_up.dtype), w_up.rows);
  check_result("y", y, stream.batch(), w_gate.rows, activation_dtype(ctx));
  if (on_gpu(ctx)) return gpu::decode_gate_up(ctx, stream, eps, w_gate, w_up, activation, y);
  cpu::decode_gate_up(ctx, stream, eps, w_gate, w_up, activation, y);
}

void decode_logits(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& head, const MatrixView& y) {
  check_stream(ctx, stream);
  check_operand(ctx, "head", head, stream.hidden());
  check_result("logits", y, stream.batch(), head.rows, DType::f32);
  if (on_gpu(ctx)) return gpu::decode_logits(ctx, stream, eps, head, y);
  cpu::decode_logits(ctx, stream, eps, head, y);
}

}  // namespace restkv
