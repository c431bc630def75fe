#include <cmath>
#include <vector>

#include "model/ops/decode_linear.h"
#include "model/ops/dispatch.h"

namespace restkv::cpu {
namespace {

// A matrix [rows, cols] f32 of a call's own.
struct Scratch {
  Scratch(int64_t rows, int64_t cols) : values(static_cast<size_t>(rows * cols)), rows(rows), cols(cols) {}
  MatrixView view() { return {values.data(), DType::f32, rows, cols, cols}; }
  std::vector<float> values;
  int64_t rows, cols;
};

// The normed stream: what stands before the consuming products on GPUs stands here before them, in the same split.
Scratch normed(const DecodeStream& stream, double eps) {
  int64_t batch = stream.batch(), H = stream.hidden(), parts = stream.square_sums.size(1);
  Scratch out(batch, H);
  const float* weighted = stream.weighted.data<float>();
  const float* sums = stream.square_sums.data<float>();
  for (int64_t b = 0; b < batch; ++b) {
    float sum = 0.0f;
    for (int64_t p = 0; p < parts; ++p) sum += sums[b * parts + p];
    float scale = 1.0f / std::sqrt(sum / static_cast<float>(H) + static_cast<float>(eps));
    for (int64_t i = 0; i < H; ++i) out.values[b * H + i] = weighted[b * H + i] * scale;
  }
  return out;
}

void add_bias(const MatrixView& y, const float* bias) {
  for (int64_t r = 0; bias != nullptr && r < y.rows; ++r)
    for (int64_t i = 0; i < y.cols; ++i) y.row<float>(r)[i] += bias[i];
}

void rotate(const MatrixView& y, const DecodeQkv& args) {
  const int64_t d = args.d, half = d / 2;
  const float factor = args.rotation_factor;
  for (int64_t r = 0; r < y.rows; ++r)
    for (int64_t i = 0; i < half; ++i) {
      float angle = static_cast<float>(args.positions[r]) * args.frequencies[r * args.frequency_stride + i];
      float cos = factor * std::cos(angle), sin = factor * std::sin(angle);
      for (int64_t head = 0; head < y.cols / d; ++head) {
        float* low = y.row<float>(r) + head * d + i;
        float a = low[0], b = low[half];
        low[0] = a * cos - b * sin;
        low[half] = b * cos + a * sin;
      }
    }
}

float activate(Activation activation, float g) {
  if (activation == Activation::silu) return g / (1.0f + std::exp(-g));
  return 0.5f * g * (1.0f + std::tanh(0.7978845608f * (g + 0.044715f * g * g * g)));
}

}  // namespace

void decode_embed(Context& ctx, const Tensor& tokens, const Tensor& table, Range vocab, const Tensor& norm,
                  const DecodeStream& stream, float scale) {
  require_cpu_f32(ctx, "decode_embed", {});
  int64_t H = stream.hidden();
  for (int64_t b = 0; b < stream.batch(); ++b) {
    int64_t token = tokens.data<int32_t>()[b], row = token - vocab.begin;
    float* x = stream.x.data<float>() + b * H;
    for (int64_t i = 0; i < H; ++i) {
      if (!vocab.contains(token))
        x[i] = 0.0f;
      else
        x[i] = scale * (table.dtype() == DType::f32 ? table.data<float>()[row * H + i]
                                                    : to_float(table.data<bf16>()[row * H + i]));
    }
  }
  prepare_stream(ctx, nullptr, norm, stream);
}

void prepare_stream(Context&, const Tensor* terms, const Tensor& norm, const DecodeStream& stream) {
  int64_t H = stream.hidden(), parts = stream.square_sums.size(1);
  const float* w = norm.data<float>();
  for (int64_t b = 0; b < stream.batch(); ++b) {
    float* x = stream.x.data<float>() + b * H;
    float* weighted = stream.weighted.data<float>() + b * H;
    float* sums = stream.square_sums.data<float>() + b * parts;
    for (int64_t p = 0; p < parts; ++p) sums[p] = 0.0f;
    for (int64_t i = 0; i < H; ++i) {
      if (terms != nullptr) x[i] += terms->data<float>()[b * H + i];
      weighted[i] = x[i] * w[i];
      sums[i / kSquareSumRows] += x[i] * x[i];
    }
  }
}

void decode_qkv(Context& ctx, const DecodeStream& stream, double eps, const DecodeQkv& args) {
  Scratch x = normed(stream, eps);
  gemv(ctx, x.view(), args.wq, args.q);
  gemv(ctx, x.view(), args.wk, args.k);
  gemv(ctx, x.view(), args.wv, args.v);
  add_bias(args.q, args.q_bias);
  add_bias(args.k, args.k_bias);
  add_bias(args.v, args.v_bias);
  rotate(args.q, args);
  rotate(args.k, args);
}

void decode_residual(Context& ctx, const MatrixView& in, const MatrixView& w, const Tensor& norm,
                     const DecodeStream& stream) {
  Tensor terms = ctx.empty(DType::f32, stream.x.shape());
  gemv(ctx, in, w, MatrixView(terms));
  prepare_stream(ctx, &terms, norm, stream);
}

void decode_gate_up(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& w_gate,
                    const MatrixView& w_up, Activation activation, const MatrixView& y) {
  Scratch x = normed(stream, eps), up(y.rows, y.cols);
  gemv(ctx, x.view(), w_gate, y);
  gemv(ctx, x.view(), w_up, up.view());
  for (int64_t r = 0; r < y.rows; ++r)
    for (int64_t i = 0; i < y.cols; ++i)
      y.row<float>(r)[i] = activate(activation, y.row<float>(r)[i]) * up.values[r * y.cols + i];
}

void decode_logits(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& head, const MatrixView& y) {
  Scratch x = normed(stream, eps);
  gemv(ctx, x.view(), head, y);
}

}  // namespace restkv::cpu
