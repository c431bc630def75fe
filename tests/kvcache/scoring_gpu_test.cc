// The GPU versions of the scoring ops against their CPU twins, each on the inputs that the GPU computed, and the
// promise that every layout gives the same bits. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <map>

#include "dist/base/error.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/scores/group_mean.h"
#include "kvcache/scores/key_norms.h"
#include "kvcache/scores/position_scores.h"
#include "kvcache/scores/random_scores.h"
#include "kvcache/scores/reconstruction_kernels.h"
#include "kvcache/statistics/window_logits.h"
#include "tests/gpu_test.h"
#include "tests/kvcache/scoring_layer.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

class ScoringGpu : public testing::GpuTest {
 protected:
  static void TearDownTestSuite() {
    for (const auto& [what, error] : largest_error) printf("largest error, %-28s %.2e\n", what.c_str(), error);
    largest_error.clear();
  }

  // Differences relative to the largest finite magnitude in a row of `width`; up to `floor` they are none.
  static void expect_close(const std::string& what, const std::vector<float>& got, const std::vector<float>& want,
                           int64_t width, double tolerance, double floor = 0.0) {
    ASSERT_EQ(got.size(), want.size()) << what;
    for (size_t first = 0; first < want.size(); first += static_cast<size_t>(width)) {
      double high = 0.0, error = 0.0;
      size_t worst = first;
      for (size_t i = first; i < first + static_cast<size_t>(width); ++i) {
        if (std::isfinite(want[i])) high = std::max(high, std::fabs(static_cast<double>(want[i])));
        if (got[i] == want[i]) continue;
        ASSERT_TRUE(std::isfinite(got[i]) && std::isfinite(want[i]))
            << what << ": element " << i << " is " << got[i] << ", not " << want[i];
        const double difference = std::fabs(static_cast<double>(got[i]) - want[i]);
        if (difference > error) error = difference, worst = i;
      }
      if (error <= floor) continue;
      largest_error[what] = std::max(largest_error[what], error / high);
      ASSERT_LE(error, tolerance * high) << what << ": element " << worst << " is " << got[worst] << ", not "
                                         << want[worst] << "; the largest of its row " << high;
    }
  }

  static void expect_same_bits(const char* what, const std::vector<float>& x, const std::vector<float>& y) {
    ASSERT_EQ(x.size(), y.size()) << what;
    EXPECT_EQ(0, std::memcmp(x.data(), y.data(), sizeof(float) * x.size())) << what;
  }

  // The sums of exp of each block from the logits themselves.
  static void expect_partials(const ScoringLayer& layer, const ScoringShape& s) {
    const SequencePartition partition = s.partition(1);
    const int64_t L = s.shape.L, rows = layer.rows();
    for (int64_t b = 0; b < partition.blocks(); ++b)
      for (int64_t row = 0; row < rows; ++row) {
        const Range block = partition.block(b);
        const float* x = &layer.logit_values[row * L];
        float max = -std::numeric_limits<float>::infinity();
        for (int64_t i = block.begin; i < block.end; ++i) max = std::max(max, x[i]);
        double sum = 0.0;
        for (int64_t i = block.begin; i < block.end && max > -INFINITY; ++i)
          sum += std::exp(static_cast<double>(x[i]) - max);
        const float* partial = &layer.logit_partials[(b * rows + row) * 2];
        ASSERT_EQ(partial[0], max) << "block " << b << ", row " << row;
        ASSERT_NEAR(partial[1], sum, sum * kStatisticsGpu) << "block " << b << ", row " << row;
      }
  }

  void compare(const ScoringShape& s, uint32_t seed) {
    const ScoringInput in = scoring_input(s, seed);
    const int64_t L = s.shape.L, d = s.shape.d;
    const std::string type = s.dtype == DType::bf16 ? " bf16" : " f32";
    ScoringLayer got(*gpu, s, in, 1), want(cpu, s, in, 1);
    got.logits(), want.logits();
    expect_close("logits" + type, got.logit_values, want.logit_values, L, kStatisticsGpu);
    expect_partials(got, s);
    // From here on the CPU works on what the GPU found, op by op: small differences would else grow.
    want.continue_from(got);
    got.attention(), want.attention();
    expect_close("attention" + type, got.a, want.a, L, kStatisticsGpu);
    want.continue_from(got);
    got.outputs(), want.outputs();
    expect_close("past outputs" + type, got.past_partials, want.past_partials, d, kStatisticsGpu);
    // The smallest normal float: below it the parts of a split weight are multiples of 2^-133, whatever the weight.
    expect_close("window outputs" + type, got.window_partials, want.window_partials, d, kStatisticsGpu,
                 std::numeric_limits<float>::min());
    expect_close("folded outputs" + type, got.window_outputs, want.window_outputs, d, kStatisticsGpu);
    expect_close("folded outputs" + type, got.past_outputs, want.past_outputs, d, kStatisticsGpu);
    want.continue_from(got);
    got.scores(), want.scores();
    const double tolerance = s.dtype == DType::bf16 ? kScoresBf16 : kScoresF32;
    expect_close("scores after" + type, got.score_after, want.score_after, L - s.shape.W, tolerance);
    expect_close("scores before" + type, got.score_before, want.score_before, L - s.shape.W, tolerance);
    for (int ranks : {2, 3}) same_on_ranks(s, in, got, ranks);
  }

  void same_on_ranks(const ScoringShape& s, const ScoringInput& in, const ScoringLayer& one, int ranks) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks");
    ScoringLayer many(*gpu, s, in, ranks);
    many.logits(), many.attention(), many.outputs(), many.scores();
    expect_same_bits("logits", many.logit_values, one.logit_values);
    expect_same_bits("partials of the softmax", many.logit_partials, one.logit_partials);
    expect_same_bits("softmax", many.softmax, one.softmax);
    expect_same_bits("attention", many.a, one.a);
    expect_same_bits("partials of past outputs", many.past_partials, one.past_partials);
    expect_same_bits("partials of window outputs", many.window_partials, one.window_partials);
    expect_same_bits("past outputs", many.past_outputs, one.past_outputs);
    expect_same_bits("window outputs", many.window_outputs, one.window_outputs);
    expect_same_bits("scores after", many.score_after, one.score_after);
    expect_same_bits("scores before", many.score_before, one.score_before);
  }

  Context cpu{Context::Options{Device::cpu}};
  static std::map<std::string, double> largest_error;
};
std::map<std::string, double> ScoringGpu::largest_error;

// L, W, B, Hq, Hkv, d, block size.
const CaseShape kShapes[] = {
    {1000, 32, 64, 8, 2, 128},    {333, 1, 64, 3, 1, 64, 96},      {100, 64, 80, 4, 4, 256},
    {777, 33, 64, 8, 1, 128, 64}, {2500, 32, 64, 6, 2, 256, 1024}, {517, 7, 64, 8, 2, 64, 32},
    {600, 16, 64, 5, 5, 80},      {257, 5, 64, 6, 2, 20},          {1300, 64, 96, 16, 2, 64, 1024},
    {130, 20, 64, 3, 1, 128},     {2049, 8, 64, 12, 1, 128, 1024},
};

TEST_F(ScoringGpu, AgreesWithTheCpu) {
  uint32_t seed = 1;
  for (const CaseShape& shape : kShapes)
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(fmt::format("L {} W {} Hq {} Hkv {} d {} {}", shape.L, shape.W, shape.Hq, shape.Hkv, shape.d,
                               name_of(dtype)));
      compare({shape, dtype}, seed++);
    }
}

TEST_F(ScoringGpu, Contents) {
  for (Content content : {Content::constant, Content::spike, Content::underflow, Content::periodic, Content::minus_inf})
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(fmt::format("content {} {}", static_cast<int>(content), name_of(dtype)));
      compare({{700, 16, 64, 8, 2, 128, 0, content}, dtype}, 50);
    }
}

TEST_F(ScoringGpu, Options) {
  const CaseShape shape{450, 12, 64, 8, 2, 64};
  for (DType dtype : {DType::f32, DType::bf16}) {
    compare({shape, dtype, {}, RowReduction::mean, 0.5}, 60);
    for (int64_t d : {64, 128, 256})
      compare({{450, 12, 64, 8, 2, d}, dtype, {}, RowReduction::sum, d == 64 ? 1.5 : 1.0, false}, 61);
    compare({shape, dtype, {}, RowReduction::ema, 2.0, true, true}, 62);
    for (RowReduction reduction : {RowReduction::inverse_ema, RowReduction::last})
      for (int64_t W : {1, 12, 33}) compare({{450, W, 64, 8, 2, 64}, dtype, {}, reduction}, 64);
    // A part of two groups, as with more tensor ranks than KV heads.
    compare({shape, dtype, {{3, 6}, {0, 2}}}, 63);
  }
}

// One layer's inputs of the norms, with weights near 1 where a value is close to the output.
struct NormInput {
  HeadLayout heads;
  int64_t L;
  std::vector<float> a, o, v, r;

  struct Device {
    const float *a, *o, *r;
    MatrixView v;
    float* s;
  };

  NormInput(const HeadLayout& heads_, int64_t L_, uint32_t seed) : heads(heads_), L(L_) {
    const int64_t Hq = heads.Hq_lc(), Hkv = heads.Hkv_lc(), d = heads.d, group = heads.group();
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> unit;
    for (int64_t i = 0; i < Hq * L; ++i) a.push_back(unit(random) * 1e-2f);
    for (int64_t i = 0; i < Hq * d; ++i) o.push_back(normal(random));
    for (int64_t i = 0; i < L * Hkv * d; ++i) v.push_back(to_float(to_bf16(normal(random))));
    for (int64_t i = 5; i < L; i += 17) {  // from 2^-14 to 1 times away, one head after another
      const int64_t h = i % Hq, g = (heads.local.q.begin + h) / group - heads.local.kv.begin;
      const float away = std::ldexp(1.0f, static_cast<int>(i / 17 % 15) - 14);
      for (int64_t k = 0; k < d; ++k)
        v[(i * Hkv + g) * d + k] = to_float(to_bf16(o[h * d + k] + away * normal(random)));
      a[h * L + i] = 1.0f - away / 8;
    }
    for (int64_t i = 0; i < Hq * d * d; ++i)
      r.push_back(i % d < i / d % d ? 0.0f : normal(random) * std::pow(0.97f, static_cast<float>(i / d % d)));
  }

  // Scores of the positions [begin, L), [Hq_lc, L - begin].
  std::vector<float> scores(Context& ctx, int64_t begin,
                            const std::function<void(const LocalShard&, const Device&)>& op) const {
    const int64_t Hq = heads.Hq_lc(), row = heads.Hkv_lc() * heads.d, count = L - begin;
    LocalShard shard;
    shard.L = shard.L_lc = count;
    shard.stride = (count + 31) / 32 * 32 + 32;
    std::vector<float> weights(static_cast<size_t>(Hq * shard.stride));
    for (int64_t h = 0; h < Hq; ++h) std::copy_n(&a[h * L + begin], count, &weights[h * shard.stride]);
    const Tensor a_dev = upload(ctx, weights, {Hq, shard.stride}), o_dev = upload(ctx, o, {Hq, heads.d});
    const Tensor v_dev = upload(ctx, {v.begin() + begin * row, v.end()}, {count, row}, DType::bf16);
    const Tensor r_dev = upload(ctx, r, {Hq, heads.d, heads.d});
    Tensor s = output(ctx, {Hq, shard.stride});
    op(shard, {a_dev.data<float>(), o_dev.data<float>(), r_dev.data<float>(), MatrixView(v_dev), s.data<float>()});
    const std::vector<float> all = ctx.to_host<float>(s);
    std::vector<float> result;
    for (int64_t h = 0; h < Hq; ++h)
      result.insert(result.end(), &all[h * shard.stride], &all[h * shard.stride] + count);
    return result;
  }
};

TEST_F(ScoringGpu, HopperHasWarpgroups) {
  if (gpu->gpu()->describe().find("NVIDIA H") == std::string::npos) GTEST_SKIP() << "not a Hopper device";
  EXPECT_TRUE(gpu::has_warpgroups()) << "the sm_90a code was not compiled or not chosen";
}

TEST_F(ScoringGpu, NormKernels) {
  using gpu::NormKernel;
  const std::pair<const char*, NormKernel> kernels[] = {
      {"warps", NormKernel::warps}, {"warpgroups", NormKernel::warpgroups}, {"fastest", NormKernel::fastest}};
  const std::pair<int64_t, HeadLayout> cases[] = {
      {1000, {8, 2, 128, {{0, 8}, {0, 2}}}},   {131, {3, 1, 128, {{0, 3}, {0, 1}}}},
      {777, {16, 2, 128, {{0, 16}, {0, 2}}}},  {20011, {4, 4, 128, {{0, 4}, {0, 4}}}},
      {5003, {12, 1, 128, {{0, 12}, {0, 1}}}}, {450, {8, 2, 128, {{3, 6}, {0, 2}}}},
      {901, {7, 1, 64, {{0, 7}, {0, 1}}}},     {64, {32, 1, 64, {{0, 32}, {0, 1}}}},
      {1, {8, 2, 64, {{0, 8}, {0, 2}}}},       {700, {4, 2, 256, {{0, 4}, {0, 2}}}},
      {333, {5, 1, 256, {{0, 5}, {0, 1}}}},    {2049, {16, 16, 256, {{0, 16}, {0, 16}}}},
  };
  uint32_t seed = 200;
  for (const auto& [L, heads] : cases) {
    const NormInput in(heads, L, seed++);
    const double tau = L == 777 ? 1.5 : 1.0;
    SCOPED_TRACE(fmt::format("L {} Hq_lc {} Hkv_lc {} d {}", L, heads.Hq_lc(), heads.Hkv_lc(), heads.d));
    const std::vector<float> want = in.scores(cpu, 0, [&](const LocalShard& shard, const NormInput::Device& x) {
      reconstruction_after(cpu, in.heads, shard, x.a, x.o, x.v, x.r, tau, x.s);
    });
    for (const auto& [name, kernel] : kernels) {
      if (name != std::string("warps") && name != std::string("fastest") && !gpu::has_warpgroups()) continue;
      SCOPED_TRACE(name);
      const auto run = [&, k = kernel](const LocalShard& shard, const NormInput::Device& x) {
        gpu::reconstruction_after(*gpu, in.heads, shard, x.a, x.o, x.v, x.r, tau, x.s, k);
      };
      const std::vector<float> got = in.scores(*gpu, 0, run);
      expect_close(std::string("scores by ") + name, got, want, 1, kScoresBf16);  // each by itself
      expect_same_bits("a second run", in.scores(*gpu, 0, run), got);
      // The same positions elsewhere in a tile.
      for (int64_t begin : {1, 8, 37, 64, 77}) {
        if (begin >= L) break;
        std::vector<float> part;
        for (int64_t h = 0; h < heads.Hq_lc(); ++h) part.insert(part.end(), &got[h * L + begin], &got[h * L] + L);
        expect_same_bits("positions moved", in.scores(*gpu, begin, run), part);
      }
    }
  }
}

TEST_F(ScoringGpu, KeyNorms) {
  for (int64_t d : {20, 64, 128, 256})
    for (DType dtype : {DType::f32, DType::bf16})
      for (int ranks : {1, 3}) {
        const ScoringShape s{{517, 7, 64, 8, 2, d, 32}, dtype, {{3, 6}, {0, 2}}};
        const ScoringInput in = scoring_input(s, 75);
        const HeadLayout heads = s.heads();
        const SequencePartition partition = s.partition(ranks);
        for (int rank = 0; rank < ranks; ++rank) {
          const LocalShard shard = make_local_shard(partition, rank, s.shape.W);
          std::vector<float> k;
          for (const Segment& segment : shard.all)
            k.insert(k.end(), &in.k[segment.global * 2 * d], &in.k[segment.global * 2 * d] + segment.count * 2 * d);
          const Tensor on_cpu = upload(cpu, k, {shard.L_lc, 2 * d}),
                       on_gpu = upload(*gpu, k, {shard.L_lc, 2 * d}, dtype);
          std::vector<float> want(static_cast<size_t>(2 * shard.stride));
          Tensor got = upload(*gpu, want, {2, shard.stride});
          key_norms(cpu, heads, shard, MatrixView(on_cpu), want.data());
          key_norms(*gpu, heads, shard, MatrixView(on_gpu), got.data<float>());
          expect_close("key norms", gpu->to_host<float>(got), want, shard.stride, kStatisticsGpu);
        }
      }
}

// Values far outside the range of f16, and outputs close to a value: the tensor cores' path must notice.
TEST_F(ScoringGpu, ValuesOfAnySize) {
  for (float scale : {1e-12f, 1e-5f, 3e4f, 1e10f}) {
    ScoringShape s{{300, 8, 64, 4, 2, 128}, DType::bf16};
    ScoringInput in = scoring_input(s, 70);
    for (float& x : in.v) x = to_float(to_bf16(x * scale));
    for (float& x : in.r) x *= 1e-3f / scale;
    ScoringLayer got(*gpu, s, in, 1), want(cpu, s, in, 1);
    got.logits(), got.attention(), got.outputs();
    want.continue_from(got);
    got.scores(), want.scores();
    expect_close("scores after, any size", got.score_after, want.score_after, 292, kScoresBf16);
    expect_close("scores before, any size", got.score_before, want.score_before, 292, kScoresBf16);
  }
}

// Offsets beyond 2^31 elements of the logits: 8,704 rows at 262,144 positions. The CPU checks the first and the last
// two blocks for the last two heads.
TEST_F(ScoringGpu, LongPromptAgainstASlice) {
  const int64_t L = 262144, W = 64, Hq = 136, d = 64, P = L - W;
  const HeadLayout heads{Hq, 1, d, {{0, Hq}, {0, 1}}}, last{Hq, 1, d, {{Hq - 2, Hq}, {0, 1}}};
  const SequencePartition one(L, 1), many(L, 64);
  const LocalShard shard = make_local_shard(one, 0, W), slice = make_local_shard(many, 0, W);
  std::mt19937 random(80);
  std::normal_distribution<float> normal;
  const auto fill = [&](int64_t count, float scale) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& x : values) x = to_float(to_bf16(normal(random) * scale));
    return values;
  };
  const std::vector<float> q = fill(W * Hq * d, 1.5f), k = fill(L * d, 1.0f), v = fill(L * d, 1.0f);
  std::vector<float> r = fill(Hq * d * d, 0.2f);
  for (int64_t i = 0; i < Hq * d * d; ++i)
    if (i % d < i / d % d) r[i] = 0.0f;  // upper triangular
  Tensor q_gpu = upload(*gpu, q, {W, Hq * d}, DType::bf16), k_gpu = upload(*gpu, k, {L, d}, DType::bf16);
  Tensor v_gpu = upload(*gpu, v, {L, d}, DType::bf16), r_gpu = upload(*gpu, r, {Hq, d, d});
  Tensor logits = gpu->empty(DType::f32, {Hq * W, shard.stride}), softmax = gpu->empty(DType::f32, {Hq * W, 2});
  Tensor partials = gpu->empty(DType::f32, {one.blocks(), Hq * W * 2}), a = output(*gpu, {Hq, shard.stride});
  Tensor outputs = gpu->empty(DType::f32, {one.blocks(), Hq * d}), o = gpu->empty(DType::f32, {Hq, d});
  Tensor s = output(*gpu, {Hq, shard.stride});
  window_logits(*gpu, heads, shard, MatrixView(q_gpu), MatrixView(k_gpu), logits.data<float>(), partials.data<float>());
  fold_softmax(*gpu, partials.data<float>(), block_slots(one), Hq * W, softmax.data<float>());
  window_attention(*gpu, heads, shard, logits.data<float>(), softmax.data<float>(), RowReduction::ema, 0.3,
                   a.data<float>());
  past_output_partials(*gpu, heads, shard, a.data<float>(), MatrixView(v_gpu), outputs.data<float>());
  fold_outputs(*gpu, outputs.data<float>(), block_slots(one), Hq, d, o.data<float>());
  reconstruction_after(*gpu, heads, shard, a.data<float>(), o.data<float>(), MatrixView(v_gpu), r_gpu.data<float>(),
                       1.0, s.data<float>());

  std::vector<float> q_last, k_slice, v_slice;
  for (int64_t w = 0; w < W; ++w)
    q_last.insert(q_last.end(), &q[(w * Hq + Hq - 2) * d], &q[(w * Hq + Hq - 2) * d] + 2 * d);
  for (const Segment& segment : slice.all) {
    k_slice.insert(k_slice.end(), &k[segment.global * d], &k[segment.global * d] + segment.count * d);
    v_slice.insert(v_slice.end(), &v[segment.global * d], &v[segment.global * d] + segment.count * d);
  }
  // What the GPU has at the slice's positions, for the last heads.
  const auto fetch = [&](const Tensor& from, int64_t first, int64_t rows) {
    std::vector<float> result(static_cast<size_t>(rows * slice.stride));
    for (int64_t row = 0; row < rows; ++row)
      for (const Segment& segment : slice.all)
        gpu->to_host(from.data<float>() + (first + row) * shard.stride + segment.global,
                     &result[row * slice.stride + segment.local], 4 * segment.count);
    return result;
  };
  ASSERT_EQ(slice.stride, slice.L_lc);
  std::vector<float> want(static_cast<size_t>(2 * W * slice.stride)), parts(slice.blocks.size() * 4 * W);
  cpu::window_logits(cpu, last, slice, q_last.data(), k_slice.data(), want.data(), parts.data());
  const std::vector<float> got = fetch(logits, (Hq - 2) * W, 2 * W);
  expect_close("logits, long", got, want, slice.stride, kStatisticsGpu);
  std::vector<float> rows(static_cast<size_t>(4 * W)), weights(static_cast<size_t>(2 * slice.stride));
  gpu->to_host(softmax.data<float>() + (Hq - 2) * W * 2, rows.data(), 16 * W);
  cpu::window_attention(cpu, last, slice, got.data(), rows.data(), RowReduction::ema, 0.3, weights.data());
  const std::vector<float> got_a = fetch(a, Hq - 2, 2);
  expect_close("attention, long", got_a, weights, slice.stride, kStatisticsGpu);
  std::vector<float> o_last(static_cast<size_t>(2 * d));
  gpu->to_host(o.data<float>() + (Hq - 2) * d, o_last.data(), 8 * d);
  std::vector<float> scores(static_cast<size_t>(2 * slice.stride));
  cpu::reconstruction_after(cpu, last, slice, got_a.data(), o_last.data(), v_slice.data(), &r[(Hq - 2) * d * d], 1.0,
                            scores.data());
  std::vector<float> got_s = fetch(s, Hq - 2, 2);
  for (std::vector<float>* x : {&scores, &got_s})  // window positions have no score
    for (int64_t row = 0; row < 2; ++row) std::fill_n(&(*x)[(row + 1) * slice.stride - W], W, 0.0f);
  expect_close("scores after, long", got_s, scores, slice.stride, kScoresBf16);
  // All of the row's weight: the fold over 256 blocks.
  const std::vector<float> all = gpu->to_host<float>(a);
  double sum = 0.0;
  for (int64_t i = 0; i < L; ++i) sum += all[(Hq - 1) * shard.stride + i];
  EXPECT_NEAR(sum, 1.0, kStatisticsGpu);
  EXPECT_GT(P, 0);
}

TEST_F(ScoringGpu, SmallScoresAndCopies) {
  const CaseShape shape{1001, 9, 64, 12, 4, 64};
  const HeadLayout heads{12, 4, 64, {{3, 9}, {1, 3}}};
  for (int ranks : {1, 3}) {
    const SequencePartition partition(shape.L, ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      const LocalShard shard = make_local_shard(partition, rank, shape.W);
      std::mt19937 random(90);
      std::normal_distribution<float> normal;
      std::vector<float> x(static_cast<size_t>(6 * shard.stride)), zeros(static_cast<size_t>(2 * shard.stride));
      for (float& e : x) e = normal(random);
      Tensor x_gpu = upload(*gpu, x, {6, shard.stride});
      std::vector<std::vector<const float*>> on_cpu(2), on_gpu(2);
      for (int h = 0; h < 6; ++h) {
        on_cpu[h / 3].push_back(x.data() + h * shard.stride);
        on_gpu[h / 3].push_back(x_gpu.data<float>() + h * shard.stride);
      }
      std::vector<float> want = zeros;
      Tensor got = upload(*gpu, zeros, {2, shard.stride});
      group_mean(cpu, on_cpu, shard.L_lc, shard.stride, want.data());
      group_mean(*gpu, on_gpu, shard.L_lc, shard.stride, got.data<float>());
      expect_same_bits("group mean", gpu->to_host<float>(got), want);

      want = zeros, got = upload(*gpu, zeros, {2, shard.stride});
      random_scores(cpu, heads, shard, 7, 3, want.data());
      random_scores(*gpu, heads, shard, 7, 3, got.data<float>());
      expect_same_bits("random scores", gpu->to_host<float>(got), want);

      for (int64_t sinks : {0, 4, 700}) {
        std::vector<float> row(static_cast<size_t>(shard.stride));
        got = upload(*gpu, row, {shard.stride});
        position_scores(cpu, shard, sinks, row.data());
        position_scores(*gpu, shard, sinks, got.data<float>());
        expect_same_bits("position scores", gpu->to_host<float>(got), row);
      }

      for (int64_t count : {shard.past_count(), shard.L_lc, shard.L_lc / 4 * 4}) {
        std::vector<float> copy(static_cast<size_t>(6 * (count + 4)), 5.0f);
        Tensor copy_gpu = upload(*gpu, copy, {6, count + 4});
        copy_rows(cpu, x.data(), shard.stride, copy.data(), count + 4, 6, count);
        copy_rows(*gpu, x_gpu.data<float>(), shard.stride, copy_gpu.data<float>(), count + 4, 6, count);
        expect_same_bits("copied rows", gpu->to_host<float>(copy_gpu), copy);
      }
    }
  }
}

}  // namespace
}  // namespace restkv::testing
