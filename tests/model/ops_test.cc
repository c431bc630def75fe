// CPU ops against plain double-precision loops, and the promise that a row's bits depend on its position alone.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <random>

#include "dist/base/error.h"
#include "model/ops/attention_decode.h"
#include "model/ops/attention_prefill.h"
#include "model/ops/embedding.h"
#include "model/ops/merge_attention.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rope.h"
#include "model/ops/swiglu.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

std::vector<float> random_values(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(n);
  for (float& v : values) v = normal(rng);
  return values;
}

double largest(const std::vector<double>& values) {
  double m = 0.0;
  for (double v : values) m = std::max(m, std::abs(v));
  return m;
}

void expect_close(const std::vector<float>& got, const std::vector<double>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  double bound = tolerance * largest(want);
  ASSERT_GT(bound, 0.0);
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], bound) << "element " << i;
}

class Ops : public ::testing::Test {
 protected:
  Context ctx{Context::Options{Device::cpu, 2}};
};

TEST_F(Ops, RmsNorm) {
  for (int64_t H : {1, 15, 64, 100}) {
    int64_t n = 37;
    auto x = random_values(n * H, 1), w = random_values(H, 2);
    std::vector<float> y(x.size(), NAN);
    Tensor weight = Tensor::view(w.data(), DType::f32, {H});
    rms_norm(ctx, MatrixView(x.data(), n, H), weight, MatrixView(y.data(), n, H), 1e-5);
    std::vector<double> want;
    for (int64_t r = 0; r < n; ++r) {
      double sum = 0.0;
      for (int64_t c = 0; c < H; ++c) sum += double(x[r * H + c]) * x[r * H + c];
      for (int64_t c = 0; c < H; ++c) want.push_back(x[r * H + c] / std::sqrt(sum / H + 1e-5) * w[c]);
    }
    expect_close(y, want, testing::kOpF32);
  }
}

TEST_F(Ops, Swiglu) {
  for (int64_t I : {1, 16, 23, 40}) {
    int64_t n = 35;
    auto x = random_values(n * 2 * I, 3, 4.0f);
    std::vector<float> y(n * I, NAN);
    swiglu(ctx, MatrixView(x.data(), n, 2 * I), MatrixView(y.data(), n, I));
    std::vector<double> want;
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < I; ++c) {
        double gate = x[r * 2 * I + c];
        want.push_back(gate / (1.0 + std::exp(-gate)) * x[r * 2 * I + I + c]);
      }
    expect_close(y, want, testing::kOpF32);
  }
}

TEST_F(Ops, SwigluSaturates) {
  std::vector<float> x = {-200.0f, 200.0f, -0.0f, 90.0f, 1.0f, 1.0f, 1.0f, 1.0f};
  std::vector<float> y(4);
  swiglu(ctx, MatrixView(x.data(), 1, 8), MatrixView(y.data(), 1, 4));
  EXPECT_NEAR(y[0], 0.0f, 1e-30);
  EXPECT_EQ(y[1], 200.0f);
  EXPECT_EQ(y[2], 0.0f);
  EXPECT_EQ(y[3], 90.0f);
}

TEST_F(Ops, Geglu) {
  int64_t n = 35, I = 23;
  auto x = random_values(n * 2 * I, 3, 4.0f);
  x[0] = -200.0f;
  x[1] = 200.0f;
  std::vector<float> y(n * I, NAN);
  gated_activation(ctx, Activation::gelu_tanh, MatrixView(x.data(), n, 2 * I), MatrixView(y.data(), n, I));
  std::vector<double> want;
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < I; ++c) {
      double g = x[r * 2 * I + c], u = std::sqrt(2.0 / std::numbers::pi) * (g + 0.044715 * g * g * g);
      want.push_back(0.5 * g * (1.0 + std::tanh(u)) * x[r * 2 * I + I + c]);
    }
  expect_close(y, want, testing::kOpF32);
}

TEST_F(Ops, RopeTurnsPairs) {
  int64_t n = 5, heads = 3, d = 8;
  auto x = random_values(n * heads * d, 4);
  std::vector<float> original = x;
  RopeConfig config;
  auto frequencies = rope_frequencies(config, d);
  std::vector<int64_t> positions = {0, 1, 7, 1000, 100000};
  Tensor table = rope_table(ctx, frequencies, positions);
  apply_rope(ctx, MatrixView(x.data(), n, heads * d), d, table);
  std::vector<double> want(x.size());
  for (int64_t r = 0; r < n; ++r)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < d / 2; ++i) {
        double angle = static_cast<float>(positions[r]) * static_cast<float>(std::pow(10000.0, -2.0 * i / d));
        size_t low = (r * heads + h) * d + i, high = low + d / 2;
        want[low] = original[low] * std::cos(angle) - original[high] * std::sin(angle);
        want[high] = original[high] * std::cos(angle) + original[low] * std::sin(angle);
      }
  // Angles of 1e5 in float32 are known to 4e-3 only; the reference above uses float32 frequencies as well.
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t i = 0; i < heads * d; ++i) ASSERT_NEAR(x[r * heads * d + i], want[r * heads * d + i], 2e-4);
}

TEST_F(Ops, Llama3ScalingKeepsShortWavesAndDividesLongOnes) {
  RopeConfig config, plain;
  plain.theta = config.theta = 500000.0;
  config.type = "llama3";
  config.factor = 8.0;
  config.original_max_positions = 8192;
  auto scaled = rope_frequencies(config, 128), base = rope_frequencies(plain, 128);
  EXPECT_EQ(scaled.front(), base.front());
  EXPECT_FLOAT_EQ(scaled.back(), base.back() / 8.0f);
  for (size_t i = 0; i < scaled.size(); ++i) {
    EXPECT_LE(scaled[i], base[i]);
    EXPECT_GE(scaled[i] * 8.0001f, base[i]);
  }
}

TEST_F(Ops, YarnBlendsByTurns) {
  RopeConfig config, plain;
  plain.theta = config.theta = 1e6;
  config.type = "yarn";
  config.factor = 4.0;
  config.original_max_positions = 32768;
  const int64_t d = 128;
  auto scaled = rope_frequencies(config, d), base = rope_frequencies(plain, d);
  int between = 0;
  for (int64_t i = 0; i < d / 2; ++i) {
    const double turns = 32768.0 * base[i] / (2.0 * std::numbers::pi), share = scaled[i] / base[i];
    // The blend begins and ends at whole indices: one index on either side of the numbers of turns.
    const double step = std::pow(1e6, 2.0 / d);
    if (turns > 32.0 * step) {
      EXPECT_FLOAT_EQ(scaled[i], base[i]) << i;
    }
    if (turns < 1.0 / step) {
      EXPECT_FLOAT_EQ(scaled[i], base[i] / 4.0f) << i;
    }
    if (i > 0) {
      EXPECT_LE(share, scaled[i - 1] / base[i - 1] + 1e-6) << i;
    }
    between += share < 0.999 && share > 0.251;
  }
  EXPECT_GT(between, 10);
  Tensor table = rope_table(ctx, scaled, {77}, 1.125), one = rope_table(ctx, scaled, {77});
  for (int64_t i = 0; i < d; ++i) EXPECT_EQ(table.data<float>()[i], 1.125f * one.data<float>()[i]);
}

TEST_F(Ops, DynamicScalingGrowsWithTheSequence) {
  RopeConfig config, plain;
  config.type = "dynamic";
  config.factor = 2.0;
  config.original_max_positions = 512;
  EXPECT_EQ(rope_frequencies(config, 64), rope_frequencies(plain, 64));
  EXPECT_EQ(rope_frequencies(config, 64, 512), rope_frequencies(plain, 64));
  plain.theta = 10000.0 * std::pow(2.0 * 1300.0 / 512.0 - 1.0, 64.0 / 62.0);
  auto want = rope_frequencies(plain, 64), got = rope_frequencies(config, 64, 1300);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_FLOAT_EQ(got[i], want[i]);
}

TEST_F(Ops, EmbedLeavesOtherShardsZero) {
  std::vector<float> table = random_values(4 * 3, 5);
  Tensor t = Tensor::view(table.data(), DType::f32, {4, 3});
  std::vector<int32_t> tokens = {9, 10, 13, 14};
  std::vector<float> y(12, NAN), scaled(12, NAN);
  embed(ctx, t, {10, 14}, tokens, MatrixView(scaled.data(), 4, 3), 1.5f);
  embed(ctx, t, {10, 14}, tokens, MatrixView(y.data(), 4, 3));
  for (int c = 0; c < 3; ++c) {
    EXPECT_EQ(y[c], 0.0f);
    EXPECT_EQ(scaled[3 + c], table[c] * 1.5f);
    EXPECT_EQ(y[3 + c], table[c]);
    EXPECT_EQ(y[6 + c], table[9 + c]);
    EXPECT_EQ(y[9 + c], 0.0f);
  }
}

struct Case {
  int64_t L, Hq, Hkv, d;
};

struct Problem {
  explicit Problem(const Case& c, uint32_t seed = 7, float scale = 1.0f)
      : q(random_values(c.L * c.Hq * c.d, seed, scale)),
        k(random_values(c.L * c.Hkv * c.d, seed + 1)),
        v(random_values(c.L * c.Hkv * c.d, seed + 2)),
        heads{c.Hq, c.Hkv, c.d, {{0, c.Hq}, {0, c.Hkv}}},
        lengths(c.Hkv, c.L) {
    for (int64_t g = 0; g < c.Hkv; ++g) offsets.push_back(g * c.d);
    view = {k.data(), v.data(), DType::f32, c.Hkv, c.d, c.Hkv * c.d, offsets.data(), lengths.data()};
  }
  std::vector<float> q, k, v;
  HeadLayout heads;
  std::vector<int64_t> lengths, offsets;
  KvView view;
};

// One query row over the keys [first, visible).
std::vector<double> reference_row(const Problem& p, int64_t row, int64_t head, int64_t visible, double* lse,
                                  int64_t first = 0) {
  int64_t d = p.heads.d, Hq = p.heads.Hq, Hkv = p.heads.Hkv, g = p.heads.kv_of(head);
  std::vector<double> s(visible), out(d, 0.0);
  double high = -INFINITY, sum = 0.0;
  for (int64_t i = 0; i < visible; ++i) {
    for (int64_t c = 0; c < d; ++c) s[i] += double(p.q[(row * Hq + head) * d + c]) * p.k[(i * Hkv + g) * d + c];
    s[i] /= std::sqrt(double(d));
    if (i < first) s[i] = -INFINITY;
    high = std::max(high, s[i]);
  }
  for (double& x : s) sum += x = std::exp(x - high);
  for (int64_t i = 0; i < visible; ++i)
    for (int64_t c = 0; c < d; ++c) out[c] += s[i] / sum * p.v[(i * Hkv + g) * d + c];
  *lse = high + std::log(sum);
  return out;
}

TEST_F(Ops, PrefillAttentionIsCausalSoftmax) {
  for (Case c : {Case{1, 1, 1, 16}, Case{130, 4, 2, 16}, Case{700, 3, 1, 20}, Case{1111, 2, 2, 64}}) {
    Problem p(c, 11, 2.0f);
    std::vector<float> out(p.q.size(), NAN);
    MatrixView q(p.q.data(), c.L, c.Hq * c.d), o(out.data(), c.L, c.Hq * c.d);
    attention_prefill(ctx, {q, o, 0, 1.0 / std::sqrt(double(c.d))}, p.view, p.heads);
    for (int64_t row : {int64_t{0}, c.L / 3, c.L / 2, c.L - 1})
      for (int64_t h = 0; h < c.Hq; ++h) {
        double lse;
        auto want = reference_row(p, row, h, row + 1, &lse);
        for (int64_t i = 0; i < c.d; ++i) ASSERT_NEAR(out[(row * c.Hq + h) * c.d + i], want[i], 1e-5);
      }
    for (float x : out) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST_F(Ops, PrefillAttentionWithinASlidingWindow) {
  // Windows within a tile of keys, across tiles, of exactly one, of one position, and longer than the prompt.
  for (int64_t window : {1, 100, 512, 700, 5000}) {
    Case c{1500, 3, 1, 20};
    Problem p(c, 11, 2.0f);
    std::vector<float> out(p.q.size(), NAN);
    MatrixView q(p.q.data(), c.L, c.Hq * c.d), o(out.data(), c.L, c.Hq * c.d);
    attention_prefill(ctx, {q, o, 0, 1.0 / std::sqrt(double(c.d)), window}, p.view, p.heads);
    for (int64_t row : {0, 99, 100, 511, 512, 640, 1150, 1499})
      for (int64_t h = 0; h < c.Hq; ++h) {
        double lse;
        auto want = reference_row(p, row, h, row + 1, &lse, std::max<int64_t>(0, row + 1 - window));
        for (int64_t i = 0; i < c.d; ++i)
          ASSERT_NEAR(out[(row * c.Hq + h) * c.d + i], want[i], 1e-5) << window << " " << row;
      }
    for (float x : out) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST_F(Ops, PrefillRowsAreTheSameBitsInAnyChunk) {
  Case c{900, 2, 1, 32};
  Problem p(c);
  double scale = 1.0 / std::sqrt(32.0);
  std::vector<float> whole(p.q.size()), parts(p.q.size(), NAN);
  MatrixView q(p.q.data(), c.L, c.Hq * c.d), all(whole.data(), c.L, c.Hq * c.d), pieces(parts.data(), c.L, c.Hq * c.d);
  attention_prefill(ctx, {q, all, 0, scale}, p.view, p.heads);
  Context one{Context::Options{Device::cpu, 1}};
  for (auto [first, last] : {std::pair<int64_t, int64_t>{0, 128}, {128, 640}, {640, 900}}) {
    MatrixView rows = q.block(first, last - first, 0, q.cols), out = pieces.block(first, last - first, 0, q.cols);
    attention_prefill(one, {rows, out, first, scale}, p.view, p.heads);
  }
  EXPECT_EQ(0, std::memcmp(whole.data(), parts.data(), sizeof(float) * whole.size()));
}

// Keys in parts, one of them seen by all rows and one by the rows behind it: merged they are the whole.
TEST_F(Ops, PrefillAttentionInPartsMerges) {
  for (Case c : {Case{700, 4, 2, 16}, Case{1111, 3, 1, 20}}) {
    Problem p(c, 11, 2.0f);
    const double scale = 1.0 / std::sqrt(double(c.d));
    const int64_t width = c.Hq * c.d, cut = 256, n = c.L - cut;
    std::vector<float> part(n * width, NAN), total(n * width, NAN), result(n * width, NAN);
    std::vector<float> part_lse(c.Hq * (n + 3), NAN), total_lse(c.Hq * n, NAN);
    MatrixView q = MatrixView(p.q.data(), c.L, width).block(cut, n, 0, width), o(part.data(), n, width);
    AttentionTotal sum{MatrixView(total.data(), n, width), total_lse.data(), n, true};
    // Rows [cut, L) over their own keys, causally, then over the keys before them, all of which they see.
    KvView own = p.view, before = p.view;
    std::vector<int64_t> own_lengths(c.Hkv, n), before_lengths(c.Hkv, cut);
    own.k = p.k.data() + cut * c.Hkv * c.d, own.v = p.v.data() + cut * c.Hkv * c.d;
    own.lengths = own_lengths.data(), before.lengths = before_lengths.data();
    attention_prefill(ctx, {q, o, 0, scale, 0, 0.0, part_lse.data(), n + 3}, own, p.heads);
    merge_attention(ctx, {o, part_lse.data(), n + 3}, sum, c.d);
    // A part without keys for a row changes nothing, whatever its output holds.
    std::vector<float> nothing(c.Hq * n, -INFINITY), garbage(n * width, NAN);
    sum.is_empty = false;
    merge_attention(ctx, {MatrixView(garbage.data(), n, width), nothing.data(), n}, sum, c.d);
    attention_prefill(ctx, {q, o, cut, scale, 0, 0.0, part_lse.data(), n + 3}, before, p.heads);
    merge_attention(ctx, {o, part_lse.data(), n + 3}, sum, c.d, MatrixView(result.data(), n, width));
    for (int64_t row : {int64_t{0}, n / 3, n / 2, n - 1})
      for (int64_t h = 0; h < c.Hq; ++h) {
        double lse;
        auto want = reference_row(p, cut + row, h, cut + row + 1, &lse);
        EXPECT_NEAR(total_lse[h * n + row], lse, 1e-5);
        for (int64_t i = 0; i < c.d; ++i) ASSERT_NEAR(result[(row * c.Hq + h) * c.d + i], want[i], 1e-5);
      }
    for (float x : result) ASSERT_TRUE(std::isfinite(x));
  }
  // Rows that no part has keys for.
  std::vector<float> out(32, NAN), total(32, NAN), none(4, -INFINITY), lse(4, NAN);
  merge_attention(ctx, {MatrixView(out.data(), 2, 16), none.data(), 2},
                  {MatrixView(total.data(), 2, 16), lse.data(), 2, true}, 8);
  for (float x : total) EXPECT_EQ(x, 0.0f);
  for (float x : lse) EXPECT_EQ(x, -INFINITY);
}

TEST_F(Ops, PrefillAttentionRefusesKeysThatDoNotFit) {
  Case c{200, 2, 2, 16};
  Problem p(c);
  MatrixView q = MatrixView(p.q.data(), c.L, 32).block(0, 64, 0, 32);
  std::vector<float> out(64 * 32), lse(2 * 64);
  MatrixView o(out.data(), 64, 32);
  EXPECT_THROW(attention_prefill(ctx, {q, o, 180, 1.0}, p.view, p.heads), RuntimeFailure);      // 56 rows of 64
  EXPECT_THROW(attention_prefill(ctx, {q, o, 200, 1.0, 50}, p.view, p.heads), RuntimeFailure);  // with a window
  EXPECT_THROW(attention_prefill(ctx, {q, o, 0, 1.0, 0, 0.0, lse.data(), 63}, p.view, p.heads), RuntimeFailure);
  EXPECT_NO_THROW(attention_prefill(ctx, {q, o, 200, 1.0, 0, 0.0, lse.data(), 64}, p.view, p.heads));
}

TEST_F(Ops, DecodeAttentionOverRaggedHeadsAndMerge) {
  Case c{1200, 4, 2, 24};
  Problem p(c, 21, 2.0f);
  p.lengths = {1200, 77};
  std::vector<int64_t> head = {0, 0, 1, 1};
  std::vector<float> out(c.Hq * c.d, NAN), lse(c.Hq, NAN);
  attention_decode(ctx, {p.q.data(), head.data(), c.Hq, 1.0 / std::sqrt(24.0), out.data(), lse.data()}, p.view);
  for (int64_t h = 0; h < c.Hq; ++h) {
    double want_lse;
    auto want = reference_row(p, 0, h, p.lengths[head[h]], &want_lse);
    EXPECT_NEAR(lse[h], want_lse, 1e-5);
    for (int64_t i = 0; i < c.d; ++i) ASSERT_NEAR(out[h * c.d + i], want[i], 1e-5);
  }

  // The same keys in three disjoint parts, one of them empty for every head.
  std::vector<float> part_out(3 * out.size()), part_lse(3 * lse.size()), merged(out.size(), NAN);
  int64_t cuts[4][2] = {{0, 0}, {500, 30}, {500, 30}, {1200, 77}};
  for (int part = 0; part < 3; ++part) {
    Problem piece = p;
    std::vector<int64_t> offsets, lengths;
    for (int g = 0; g < 2; ++g) {
      offsets.push_back(g * c.d + cuts[part][g] * c.Hkv * c.d);
      lengths.push_back(cuts[part + 1][g] - cuts[part][g]);
    }
    KvView view = p.view;
    view.head_offset = offsets.data();
    view.lengths = lengths.data();
    attention_decode(ctx,
                     {p.q.data(), head.data(), c.Hq, 1.0 / std::sqrt(24.0), &part_out[part * out.size()],
                      &part_lse[part * lse.size()]},
                     view);
  }
  EXPECT_EQ(part_lse[c.Hq], -INFINITY);
  merge_partial_attention(ctx, part_out.data(), part_lse.data(), 3, c.Hq, c.d, merged.data());
  for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(merged[i], out[i], 1e-6);
}

TEST_F(Ops, DecodeAttentionMasksByPosition) {
  Case c{1200, 4, 2, 24};
  Problem p(c, 21, 2.0f);
  // As a cache lays rows out: head by head, head 1 with every second position of the first 800 rows.
  std::vector<float> k, v;
  std::vector<int32_t> positions;
  std::vector<int64_t> offsets, lengths = {1200, 400}, head = {0, 0, 1, 1};
  for (int g = 0; g < 2; ++g) {
    offsets.push_back(static_cast<int64_t>(k.size()));
    for (int64_t i = 0; i < lengths[g]; ++i) {
      const int64_t at = g == 0 ? i : 2 * i;
      positions.push_back(static_cast<int32_t>(at));
      k.insert(k.end(), &p.k[(at * 2 + g) * c.d], &p.k[(at * 2 + g) * c.d] + c.d);
      v.insert(v.end(), &p.v[(at * 2 + g) * c.d], &p.v[(at * 2 + g) * c.d] + c.d);
    }
  }
  KvView view{k.data(), v.data(), DType::f32, 2, c.d, c.d, offsets.data(), lengths.data(), positions.data()};
  for (int64_t first : {0, 1, 513, 700, 799}) {
    std::vector<float> out(c.Hq * c.d, NAN), lse(c.Hq, NAN);
    DecodeAttention args{p.q.data(), head.data(), c.Hq, 1.0 / std::sqrt(24.0), out.data(), lse.data(), first};
    attention_decode(ctx, args, view);
    for (int64_t h = 0; h < 2; ++h) {
      double want_lse;
      auto want = reference_row(p, 0, h, 1200, &want_lse, first);
      EXPECT_NEAR(lse[h], want_lse, 1e-5);
      for (int64_t i = 0; i < c.d; ++i) ASSERT_NEAR(out[h * c.d + i], want[i], 1e-5);
    }
    // Head 1 holds the even positions up to 798: after the last of them it has nothing.
    EXPECT_EQ(lse[3] == -INFINITY, first == 799);
    for (int64_t i = 2 * c.d; first == 799 && i < 4 * c.d; ++i) EXPECT_EQ(out[i], 0.0f);
  }
}

}  // namespace
}  // namespace restkv
