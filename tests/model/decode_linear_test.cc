// The decode products on the CPU against the ops of prefill, which make the same in separate passes.
#include "model/ops/decode_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "dist/base/error.h"
#include "dist/base/mix.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rope.h"
#include "model/ops/swiglu.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

constexpr double kEps = 1e-5;
constexpr int64_t kBatch = 3, kHidden = 72, kMlp = 40, kHq = 6, kHkv = 2, kHead = 16;

class DecodeCpu : public ::testing::Test {
 protected:
  std::vector<float> random(int64_t n, float scale) {
    std::vector<float> values;
    for (int64_t i = 0; i < n; ++i)
      values.push_back(static_cast<float>(2.0 * unit_interval(mix64(++counter_)) - 1.0) * scale);
    return values;
  }
  Tensor tensor(int64_t rows, int64_t cols, float scale) {
    std::vector<float> values = random(rows * cols, scale);
    return ctx.to_device(values.data(), DType::f32, {rows, cols});
  }
  void expect_close(const Tensor& got, const Tensor& expected) {
    ASSERT_EQ(got.shape(), expected.shape());
    float largest = 0.0f;
    for (float x : expected.span<float>()) largest = std::max(largest, std::abs(x));
    ASSERT_GT(largest, 0.0f);
    for (int64_t i = 0; i < got.numel(); ++i)
      ASSERT_NEAR(got.data<float>()[i], expected.data<float>()[i], 4 * testing::kOpF32 * largest) << "element " << i;
  }
  // x and its norm by rms_norm.
  void start() {
    norm = ctx.to_device(random(kHidden, 1.0f).data(), DType::f32, {kHidden});
    stream = make_decode_stream(ctx, kBatch, kHidden);
    std::vector<float> x = random(kBatch * kHidden, 2.0f);
    std::copy(x.begin(), x.end(), stream.x.data<float>());
    prepare_stream(ctx, norm, stream);
    normed = ctx.empty(DType::f32, {kBatch, kHidden});
    rms_norm(ctx, MatrixView(stream.x), norm, MatrixView(normed), kEps);
  }

  Context ctx{Context::Options{Device::cpu, 2}};
  Tensor norm, normed;
  DecodeStream stream;

 private:
  uint64_t counter_ = 0;
};

TEST_F(DecodeCpu, QkvIsNormProductBiasAndRotation) {
  start();
  int64_t nq = kHq * kHead, nkv = kHkv * kHead;
  Tensor w = tensor(nq + 2 * nkv, kHidden, 0.2f), bias = tensor(1, nq, 1.0f);
  std::vector<float> frequencies = rope_frequencies(RopeConfig{}, kHead);
  std::vector<int32_t> positions = {0, 5, 70000};
  Tensor q = ctx.empty(DType::f32, {kBatch, nq}), k = ctx.empty(DType::f32, {kBatch, nkv}),
         v = ctx.zeros(DType::f32, {kBatch, nkv});
  DecodeQkv args;
  args.wq = MatrixView(w).block(0, nq, 0, kHidden), args.wk = MatrixView(w).block(nq, nkv, 0, kHidden);
  args.wv = MatrixView(w).block(nq + nkv, nkv, 0, kHidden);
  args.q_bias = bias.data<float>();
  args.d = kHead, args.frequencies = frequencies.data(), args.positions = positions.data();
  args.q = MatrixView(q), args.k = MatrixView(k), args.v = MatrixView(v);
  args.rotation_factor = 1.25f;
  decode_qkv(ctx, stream, kEps, args);

  Tensor table = rope_table(ctx, frequencies, {0, 5, 70000}, 1.25);
  auto reference = [&](const MatrixView& weight, const float* add, bool rotated) {
    Tensor y = ctx.empty(DType::f32, {kBatch, weight.rows});
    gemv(ctx, MatrixView(normed), weight, MatrixView(y));
    for (int64_t i = 0; add != nullptr && i < y.numel(); ++i) y.data<float>()[i] += add[i % weight.rows];
    if (rotated) apply_rope(ctx, MatrixView(y), kHead, table);
    return y;
  };
  expect_close(q, reference(args.wq, args.q_bias, true));
  expect_close(k, reference(args.wk, nullptr, true));
  expect_close(v, reference(args.wv, nullptr, false));

  // The second sequence alone with frequencies of its own.
  std::vector<float> own(frequencies);
  for (float& f : own) f *= 0.25f;
  std::vector<float> all(frequencies);
  all.insert(all.end(), own.begin(), own.end());
  all.insert(all.end(), frequencies.begin(), frequencies.end());
  args.frequencies = all.data(), args.frequency_stride = kHead / 2;
  decode_qkv(ctx, stream, kEps, args);
  const Tensor slow = rope_table(ctx, own, {5}, 1.25);
  std::copy_n(slow.data<float>(), kHead, table.data<float>() + kHead);
  expect_close(q, reference(args.wq, args.q_bias, true));
}

TEST_F(DecodeCpu, MlpAndLogits) {
  start();
  Tensor w = tensor(2 * kMlp, kHidden, 0.2f), y = ctx.empty(DType::f32, {kBatch, kMlp});
  MatrixView gate = MatrixView(w).block(0, kMlp, 0, kHidden), up = MatrixView(w).block(kMlp, kMlp, 0, kHidden);
  decode_gate_up(ctx, stream, kEps, gate, up, Activation::silu, MatrixView(y));
  Tensor both = ctx.empty(DType::f32, {kBatch, 2 * kMlp}), expected = ctx.empty(DType::f32, {kBatch, kMlp});
  gemv(ctx, MatrixView(normed), MatrixView(w), MatrixView(both));
  swiglu(ctx, MatrixView(both), MatrixView(expected));
  expect_close(y, expected);

  decode_gate_up(ctx, stream, kEps, gate, up, Activation::gelu_tanh, MatrixView(y));
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t i = 0; i < kMlp; ++i) {
      double g = both.data<float>()[b * 2 * kMlp + i], u = both.data<float>()[b * 2 * kMlp + kMlp + i];
      double t = std::tanh(std::sqrt(2.0 / 3.14159265358979324) * (g + 0.044715 * g * g * g));
      expected.data<float>()[b * kMlp + i] = static_cast<float>(0.5 * g * (1.0 + t) * u);
    }
  expect_close(y, expected);

  Tensor logits = ctx.empty(DType::f32, {kBatch, 2 * kMlp});
  decode_logits(ctx, stream, kEps, MatrixView(w), MatrixView(logits));
  expect_close(logits, both);
}

TEST_F(DecodeCpu, TheResidualStream) {
  start();
  Tensor in = tensor(kBatch, kMlp, 1.0f), w = tensor(kHidden, kMlp, 0.3f),
         terms = ctx.empty(DType::f32, {kBatch, kHidden});
  decode_partial(ctx, MatrixView(in), MatrixView(w), MatrixView(terms));
  DecodeStream by_sum = make_decode_stream(ctx, kBatch, kHidden);
  std::copy_n(stream.x.data<float>(), stream.x.numel(), by_sum.x.data<float>());
  Tensor x = ctx.empty(DType::f32, {kBatch, kHidden});
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = stream.x.data<float>()[i] + terms.data<float>()[i];

  decode_residual(ctx, MatrixView(in), MatrixView(w), norm, stream);
  expect_close(stream.x, x);
  add_to_stream(ctx, terms, norm, by_sum);
  expect_close(by_sum.x, x);
  expect_close(by_sum.weighted, stream.weighted);
  expect_close(by_sum.square_sums, stream.square_sums);
  double sum = 0.0, squares = 0.0;
  for (float s : stream.square_sums.span<float>()) sum += s;
  for (float value : x.span<float>()) squares += static_cast<double>(value) * value;
  EXPECT_NEAR(sum, squares, 1e-5 * squares);
}

TEST_F(DecodeCpu, EmbeddingOfAVocabularyShard) {
  Tensor table = tensor(4, kHidden, 1.0f);
  std::vector<int32_t> tokens = {10, 13, 14};
  norm = ctx.to_device(random(kHidden, 1.0f).data(), DType::f32, {kHidden});
  stream = make_decode_stream(ctx, kBatch, kHidden);
  decode_embed(ctx, Tensor::view(tokens.data(), DType::i32, {kBatch}), table, {10, 14}, norm, stream);
  for (int64_t i = 0; i < kHidden; ++i) {
    EXPECT_EQ(stream.x.data<float>()[i], table.data<float>()[i]);
    EXPECT_EQ(stream.x.data<float>()[kHidden + i], table.data<float>()[3 * kHidden + i]);
    EXPECT_EQ(stream.x.data<float>()[2 * kHidden + i], 0.0f);
    EXPECT_EQ(stream.weighted.data<float>()[i], table.data<float>()[i] * norm.data<float>()[i]);
  }
  decode_embed(ctx, Tensor::view(tokens.data(), DType::i32, {kBatch}), table, {10, 14}, norm, stream, 2.5f);
  for (int64_t i = 0; i < kHidden; ++i) EXPECT_EQ(stream.x.data<float>()[i], 2.5f * table.data<float>()[i]);
}

TEST_F(DecodeCpu, ChecksShapes) {
  start();
  Tensor w = tensor(kHidden, kMlp, 1.0f), in = tensor(kBatch, kMlp + 1, 1.0f), other = tensor(kBatch + 1, kMlp, 1.0f);
  EXPECT_THROW(decode_residual(ctx, MatrixView(in), MatrixView(w), norm, stream), RuntimeFailure);
  EXPECT_THROW(decode_residual(ctx, MatrixView(other), MatrixView(w), norm, stream), RuntimeFailure);
  EXPECT_THROW(decode_logits(ctx, stream, kEps, MatrixView(w), MatrixView(in)), RuntimeFailure);
}

}  // namespace
}  // namespace restkv
