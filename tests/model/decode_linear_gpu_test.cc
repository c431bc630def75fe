// The decode products on a GPU against their CPU twins, on the same bf16 values; independence of the batch, bit for
// bit as long as our own kernel multiplies; graph replay. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "dist/base/error.h"
#include "dist/base/gpu_handles.h"
#include "dist/base/mix.h"
#include "model/ops/decode_linear.h"
#include "model/ops/rope.h"
#include "tests/gpu_test.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

constexpr double kEps = 1e-5;

// A matrix on both sides, the same bf16 values. On the CPU activations are f32 and weights bf16.
struct Both {
  std::vector<bf16> half;
  std::vector<float> full;
  Tensor device;
  int64_t rows, cols, ld;

  MatrixView cpu_weight() { return {half.data(), DType::bf16, rows, cols, ld}; }
  MatrixView cpu() { return {full.data(), DType::f32, rows, cols, ld}; }
  MatrixView gpu() const { return {device.raw(), device.dtype(), rows, cols, ld}; }
};

struct Shape8 {
  int64_t H, I, Hq, Hkv, d, vocab;
};

void PrintTo(const Shape8& s, std::ostream* out) {
  *out << "H" << s.H << " I" << s.I << " Hq" << s.Hq << " Hkv" << s.Hkv << " d" << s.d << " V" << s.vocab;
}

class DecodeGpu : public testing::GpuTest {
 protected:
  // Values in [-scale, scale); columns beyond `cols` (padding) are NaN: nobody may use them.
  Both random(int64_t rows, int64_t cols, uint64_t seed, float scale, int64_t padding = 0) {
    Both m{{}, {}, {}, rows, cols, cols + padding};
    m.half.resize(static_cast<size_t>(rows * m.ld));
    cpu.parallel_for(rows, [&](int64_t r) {
      for (int64_t c = 0; c < m.ld; ++c) {
        uint64_t key = mix64(seed * 0x100000001b3ull + static_cast<uint64_t>(r)) + static_cast<uint64_t>(c);
        float value = static_cast<float>(2.0 * unit_interval(mix64(key)) - 1.0) * scale;
        m.half[static_cast<size_t>(r * m.ld + c)] = to_bf16(c < cols ? value : NAN);
      }
    });
    m.device = gpu->to_device(m.half.data(), DType::bf16, {rows, m.ld});
    return m;
  }
  Both activations(int64_t rows, int64_t cols, uint64_t seed) {
    Both m = random(rows, cols, seed, 1.0f);
    for (bf16 x : m.half) m.full.push_back(to_float(x));
    return m;
  }
  Both weights(int64_t n, int64_t k, uint64_t seed, int64_t padding = 0) {
    return random(n, k, seed, 2.0f / std::sqrt(static_cast<float>(k > 0 ? k : 1)), padding);
  }

  // A result of the given dtype on the GPU, poisoned, so that an element nobody writes is found.
  Both result(int64_t rows, int64_t cols, DType dtype = DType::bf16) {
    Both m{{}, std::vector<float>(static_cast<size_t>(rows * cols)), {}, rows, cols, cols};
    m.device = poisoned(dtype, {rows, cols});
    return m;
  }
  Tensor poisoned(DType dtype, Shape shape) {
    Tensor t = gpu->empty(dtype, std::move(shape));
    std::vector<char> ones(static_cast<size_t>(t.bytes()), static_cast<char>(0xff));  // NaN in f32 and bf16
    gpu->gpu()->to_device(t.raw(), ones.data(), t.bytes());
    return t;
  }
  DecodeStream poisoned_stream(int64_t batch, int64_t H, int64_t width = 0) {
    const DecodeStream as = make_decode_stream(*gpu, batch, H, width);
    return {poisoned(DType::f32, as.x.shape()), poisoned(DType::bf16, as.weighted.shape()),
            poisoned(DType::f32, as.square_sums.shape()),
            as.products.empty() ? Tensor() : poisoned(DType::f32, as.products.shape())};
  }
  static int64_t width_of(const Shape8& s) { return std::max((s.Hq + 2 * s.Hkv) * s.d, 2 * s.I); }
  Tensor vector(const std::vector<float>& values) {
    return gpu->to_device(values.data(), DType::f32, {static_cast<int64_t>(values.size())});
  }
  std::vector<float> uniform(int64_t n, uint64_t seed, float low, float high) {
    std::vector<float> values;
    for (int64_t i = 0; i < n; ++i)
      values.push_back(low + (high - low) * static_cast<float>(unit_interval(mix64(seed * 77777u + i))));
    return values;
  }

  std::vector<float> fetch(const Tensor& t) {
    if (t.dtype() == DType::f32) return gpu->to_host<float>(t);
    std::vector<float> values;
    for (bf16 x : gpu->to_host<bf16>(t)) values.push_back(to_float(x));
    return values;
  }
  std::vector<char> bytes(const Tensor& t) {
    std::vector<char> host(static_cast<size_t>(t.bytes()));
    gpu->to_host(t.raw(), host.data(), t.bytes());
    return host;
  }

  // Norm of the difference over norm of the reference, and no element far off.
  void expect_close(const char* what, const std::vector<float>& got, const std::vector<float>& expected,
                    double tolerance) {
    ASSERT_EQ(got.size(), expected.size()) << what;
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(std::isfinite(got[i])) << what << " element " << i;
      difference += std::pow(got[i] - expected[i], 2);
      norm += std::pow(expected[i], 2);
    }
    ASSERT_GT(norm, 0.0) << what;
    EXPECT_LT(std::sqrt(difference / norm), tolerance) << what;
    double typical = std::sqrt(norm / static_cast<double>(got.size()));
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_LT(std::abs(got[i] - expected[i]), 10 * tolerance * (typical + std::abs(expected[i])))
          << what << " element " << i << ": " << got[i] << " for " << expected[i];
  }
  void expect_stream(const DecodeStream& got, const DecodeStream& expected) {
    auto copy = [](const Tensor& t) { return std::vector<float>(t.data<float>(), t.data<float>() + t.numel()); };
    expect_close("x", fetch(got.x), copy(expected.x), testing::kDotF32);
    expect_close("weighted", fetch(got.weighted), copy(expected.weighted), testing::kOpBf16);
    expect_close("square sums", fetch(got.square_sums), copy(expected.square_sums), testing::kDotF32);
  }

  // Streams of both sides with the same x, through decode_embed of a table of `batch` rows.
  void start(const Shape8& s, int64_t batch);
  void compare_qkv(const Shape8& s, int64_t batch, bool bias);
  void compare_rest(const Shape8& s, int64_t batch);

  Context cpu{Context::Options{Device::cpu}};
  DecodeStream on_gpu, on_cpu;
  std::vector<float> norm;
  Tensor norm_gpu, norm_cpu;
};

void DecodeGpu::start(const Shape8& s, int64_t batch) {
  Both table = activations(batch + 2, s.H, 1);
  norm = uniform(s.H, 2, 0.5f, 1.5f);
  norm_gpu = vector(norm);
  norm_cpu = Tensor::view(norm.data(), DType::f32, {s.H});
  std::vector<int32_t> tokens;
  for (int64_t b = 0; b < batch; ++b) tokens.push_back(static_cast<int32_t>(101 + b));
  on_cpu = make_decode_stream(cpu, batch, s.H);
  on_gpu = poisoned_stream(batch, s.H, width_of(s));
  decode_embed(cpu, Tensor::view(tokens.data(), DType::i32, {batch}),
               Tensor::view(table.half.data(), DType::bf16, {batch + 2, s.H}), {100, 102 + batch}, norm_cpu, on_cpu,
               1.5f);
  decode_embed(*gpu, gpu->to_device(tokens.data(), DType::i32, {batch}), table.device, {100, 102 + batch}, norm_gpu,
               on_gpu, 1.5f);
  expect_stream(on_gpu, on_cpu);
}

void DecodeGpu::compare_qkv(const Shape8& s, int64_t batch, bool bias) {
  int64_t nq = s.Hq * s.d, nkv = s.Hkv * s.d;
  Both w = weights(nq + 2 * nkv, s.H, 3);
  Both q = result(batch, nq), k = result(batch, nkv), v = result(batch, nkv);
  RopeConfig rope;
  rope.theta = 500000.0;
  const float factor = s.d == 128 ? 1.125f : 1.0f;
  std::vector<float> frequencies = rope_frequencies(rope, s.d), biases = uniform(nq + 2 * nkv, 4, -1.0f, 1.0f);
  std::vector<int32_t> positions;
  for (int64_t b = 0; b < batch; ++b) positions.push_back(static_cast<int32_t>(b == 0 ? 1000000 : b * 4001));
  Tensor frequencies_gpu = vector(frequencies), biases_gpu = vector(biases);
  Tensor positions_gpu = gpu->to_device(positions.data(), DType::i32, {batch});
  auto args = [&](bool device) {
    DecodeQkv a;
    MatrixView all = device ? w.gpu() : w.cpu_weight();
    a.wq = all.block(0, nq, 0, s.H), a.wk = all.block(nq, nkv, 0, s.H), a.wv = all.block(nq + nkv, nkv, 0, s.H);
    const float* b = device ? biases_gpu.data<float>() : biases.data();
    if (bias) a.q_bias = b, a.k_bias = b + nq, a.v_bias = b + nq + nkv;
    a.d = s.d;
    a.rotation_factor = factor;
    a.frequencies = device ? frequencies_gpu.data<float>() : frequencies.data();
    a.positions = device ? positions_gpu.data<int32_t>() : positions.data();
    a.q = device ? q.gpu() : q.cpu(), a.k = device ? k.gpu() : k.cpu(), a.v = device ? v.gpu() : v.cpu();
    return a;
  };
  decode_qkv(cpu, on_cpu, kEps, args(false));
  decode_qkv(*gpu, on_gpu, kEps, args(true));
  expect_close("q", fetch(q.device), q.full, testing::kOpBf16);
  expect_close("k", fetch(k.device), k.full, testing::kOpBf16);
  expect_close("v", fetch(v.device), v.full, testing::kOpBf16);
}

void DecodeGpu::compare_rest(const Shape8& s, int64_t batch) {
  Both gate = weights(s.I, s.H, 5), up = weights(s.I, s.H, 6, 8), mlp = result(batch, s.I);
  for (Activation activation : {Activation::gelu_tanh, Activation::silu}) {
    decode_gate_up(cpu, on_cpu, kEps, gate.cpu_weight(), up.cpu_weight(), activation, mlp.cpu());
    decode_gate_up(*gpu, on_gpu, kEps, gate.gpu(), up.gpu(), activation, mlp.gpu());
    expect_close("gate_up", fetch(mlp.device), mlp.full, testing::kOpBf16);
  }
  Both head = weights(s.vocab, s.H, 7), logits = result(batch, s.vocab, DType::f32);
  decode_logits(cpu, on_cpu, kEps, head.cpu_weight(), logits.cpu());
  decode_logits(*gpu, on_gpu, kEps, head.gpu(), logits.gpu());
  expect_close("logits", fetch(logits.device), logits.full, testing::kOpBf16);

  Both in = activations(batch, s.I, 8), down = weights(s.H, s.I, 9, 24);
  Both partial = result(batch, s.H, DType::f32);
  decode_partial(cpu, in.cpu(), down.cpu_weight(), partial.cpu());
  decode_partial(*gpu, in.gpu(), down.gpu(), partial.gpu());
  expect_close("partial", fetch(partial.device), partial.full, testing::kDotF32);

  // x + partial by way of a sum over ranks must be what decode_residual makes of it, to the bit.
  DecodeStream other = poisoned_stream(batch, s.H);
  gpu->gpu()->copy(other.x.raw(), on_gpu.x.raw(), on_gpu.x.bytes());
  add_to_stream(*gpu, partial.device, norm_gpu, other);
  decode_residual(cpu, in.cpu(), down.cpu_weight(), norm_cpu, on_cpu);
  decode_residual(*gpu, in.gpu(), down.gpu(), norm_gpu, on_gpu);
  expect_stream(on_gpu, on_cpu);
  EXPECT_EQ(bytes(other.x), bytes(on_gpu.x));
  EXPECT_EQ(bytes(other.weighted), bytes(on_gpu.weighted));
  EXPECT_EQ(bytes(other.square_sums), bytes(on_gpu.square_sums));
  prepare_stream(*gpu, norm_gpu, other);
  EXPECT_EQ(bytes(other.weighted), bytes(on_gpu.weighted));
  EXPECT_EQ(bytes(other.square_sums), bytes(on_gpu.square_sums));
}

class DecodeShapes : public DecodeGpu, public ::testing::WithParamInterface<Shape8> {};

TEST_P(DecodeShapes, AsOnTheCpu) {
  const Shape8& s = GetParam();
  for (int64_t batch : {1, 2, 3, 8, 9, 17, 32, 33, 57, 64}) {
    if (s.H == 4096 && batch != 1 && batch != 8 && batch != 32 && batch != 64) continue;  // the CPU's time
    SCOPED_TRACE("batch " + std::to_string(batch));
    start(s, batch);
    compare_qkv(s, batch, batch % 2 == 1);
    compare_rest(s, batch);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DecodeShapes,
                         ::testing::Values(Shape8{4096, 14336, 32, 8, 128, 8003}, Shape8{576, 1536, 9, 3, 64, 1001},
                                           Shape8{64, 176, 4, 4, 16, 96}, Shape8{896, 4864, 8, 1, 64, 777},
                                           Shape8{1024, 2056, 4, 1, 256, 517}, Shape8{72, 40, 6, 2, 128, 3},
                                           Shape8{2304, 1000, 6, 2, 256, 64}));

TEST_F(DecodeGpu, ARankWithoutAShare) {
  Shape8 s{576, 0, 0, 0, 64, 0};
  start(s, 3);
  Both in = result(3, 0), w = result(s.H, 0), partial = result(3, s.H, DType::f32);
  decode_partial(*gpu, in.gpu(), w.gpu(), partial.gpu());
  for (float y : fetch(partial.device)) ASSERT_EQ(y, 0.0f);
  std::vector<char> x = bytes(on_gpu.x), weighted = bytes(on_gpu.weighted), sums = bytes(on_gpu.square_sums);
  decode_residual(*gpu, in.gpu(), w.gpu(), norm_gpu, on_gpu);
  EXPECT_EQ(x, bytes(on_gpu.x));
  EXPECT_EQ(weighted, bytes(on_gpu.weighted));
  EXPECT_EQ(sums, bytes(on_gpu.square_sums));
  Both none = result(3, 0), head = result(0, s.H), logits = result(3, 0, DType::f32);
  decode_gate_up(*gpu, on_gpu, kEps, head.gpu(), head.gpu(), Activation::silu, none.gpu());
  decode_logits(*gpu, on_gpu, kEps, head.gpu(), logits.gpu());
  gpu->synchronize();
}

TEST_F(DecodeGpu, TokensOfOtherRanksAreZeros) {
  Both table = activations(10, 64, 1);
  std::vector<int32_t> tokens = {19, 20, 29, 30, -1};
  norm_gpu = vector(uniform(64, 2, 0.5f, 1.5f));
  on_gpu = poisoned_stream(5, 64);
  decode_embed(*gpu, gpu->to_device(tokens.data(), DType::i32, {5}), table.device, {20, 30}, norm_gpu, on_gpu);
  std::vector<float> x = fetch(on_gpu.x);
  for (int64_t i = 0; i < 64; ++i) {
    EXPECT_EQ(x[i], 0.0f);
    EXPECT_EQ(x[64 + i], table.full[i]);
    EXPECT_EQ(x[128 + i], table.full[9 * 64 + i]);
    EXPECT_EQ(x[192 + i], 0.0f);
    EXPECT_EQ(x[256 + i], 0.0f);
  }
}

TEST_F(DecodeGpu, RefusesWhatItCannotRead) {
  Both in = activations(1, 20, 1), w = weights(8, 20, 2), y = result(1, 8, DType::f32);
  EXPECT_THROW(decode_partial(*gpu, in.gpu(), w.gpu(), y.gpu()), RuntimeFailure);  // 20 columns
  const int64_t many = kMaxDecodeBatch + 1;
  Both in2 = activations(many, 64, 1), w2 = weights(8, 64, 2), y2 = result(many, 8, DType::f32);
  EXPECT_THROW(decode_partial(*gpu, in2.gpu(), w2.gpu(), y2.gpu()), RuntimeFailure);
}

// One step of a small model, every result in one place; all of it can be captured.
struct SmallModel {
  Shape8 s;
  Both table, qkv, o, gate, up, down;
  Tensor norm, frequencies, tokens, positions, q, k, v, mlp, logits;
  DecodeStream stream;

  void run(Context& ctx, int64_t n) {
    auto rows = [&](const Tensor& t) { return MatrixView(t).block(0, n, 0, t.size(1)); };
    int64_t nq = s.Hq * s.d, nkv = s.Hkv * s.d;
    DecodeStream x = stream.first(n);
    decode_embed(ctx, tokens.rows(0, n), table.device, {0, s.vocab}, norm, x);
    DecodeQkv a;
    a.wq = qkv.gpu().block(0, nq, 0, s.H), a.wk = qkv.gpu().block(nq, nkv, 0, s.H);
    a.wv = qkv.gpu().block(nq + nkv, nkv, 0, s.H);
    a.d = s.d, a.frequencies = frequencies.data<float>(), a.positions = positions.data<int32_t>();
    a.q = rows(q), a.k = rows(k), a.v = rows(v);
    decode_qkv(ctx, x, kEps, a);
    decode_residual(ctx, rows(q), o.gpu(), norm, x);
    decode_gate_up(ctx, x, kEps, gate.gpu(), up.gpu(), Activation::silu, rows(mlp));
    decode_residual(ctx, rows(mlp), down.gpu(), norm, x);
    decode_logits(ctx, x, kEps, table.gpu(), rows(logits));
  }
};

class DecodeStep : public DecodeGpu, public ::testing::WithParamInterface<Shape8> {
 protected:
  SmallModel make(const Shape8& s) {
    int64_t B = kMaxDecodeBatch, nq = s.Hq * s.d, nkv = s.Hkv * s.d;
    SmallModel m;
    m.s = s;
    m.table = activations(s.vocab, s.H, 1);
    m.qkv = weights(nq + 2 * nkv, s.H, 2), m.o = weights(s.H, nq, 3);
    m.gate = weights(s.I, s.H, 4), m.up = weights(s.I, s.H, 5), m.down = weights(s.H, s.I, 6);
    m.norm = vector(uniform(s.H, 7, 0.5f, 1.5f));
    m.frequencies = vector(rope_frequencies(RopeConfig{}, s.d));
    set(m, 0);
    m.q = poisoned(DType::bf16, {B, nq}), m.k = poisoned(DType::bf16, {B, nkv}), m.v = poisoned(DType::bf16, {B, nkv});
    m.mlp = poisoned(DType::bf16, {B, s.I}), m.logits = poisoned(DType::f32, {B, s.vocab});
    m.stream = poisoned_stream(B, s.H, width_of(s));
    return m;
  }
  // Tokens and positions of step `i`.
  void set(SmallModel& m, int32_t i) {
    std::vector<int32_t> tokens, positions;
    for (int32_t b = 0; b < kMaxDecodeBatch; ++b) {
      tokens.push_back(static_cast<int32_t>((b * 37 + i * 11) % m.s.vocab));
      positions.push_back(b * 1009 + i);
    }
    if (!m.tokens.raw()) {
      m.tokens = gpu->to_device(tokens.data(), DType::i32, {kMaxDecodeBatch});
      m.positions = gpu->to_device(positions.data(), DType::i32, {kMaxDecodeBatch});
    }
    gpu->gpu()->to_device(m.tokens.raw(), tokens.data(), m.tokens.bytes());
    gpu->gpu()->to_device(m.positions.raw(), positions.data(), m.positions.bytes());
  }
  std::vector<std::vector<char>> results(const SmallModel& m, int64_t n) {
    std::vector<std::vector<char>> all;
    for (const Tensor* t :
         {&m.q, &m.k, &m.v, &m.mlp, &m.logits, &m.stream.x, &m.stream.weighted, &m.stream.square_sums})
      all.push_back(bytes(t->rows(0, n)));
    return all;
  }
};

TEST_P(DecodeStep, EverySequenceIsIndependentOfTheBatch) {
  SmallModel m = make(GetParam());
  m.run(*gpu, kStreamedBatch);
  auto whole = results(m, kStreamedBatch);
  for (int64_t n : {1, 2, 3, 7, 8, 9, 15}) {
    m.run(*gpu, n);
    auto part = results(m, n);
    for (size_t i = 0; i < part.size(); ++i)
      EXPECT_EQ(0, std::memcmp(part[i].data(), whole[i].data(), part[i].size())) << "batch " << n << ", result " << i;
  }
}

// One step by cuBLASLt beside the same sequences one by one.
TEST_P(DecodeStep, LargeBatchesAreNearSingleSequences) {
  SmallModel m = make(GetParam());
  for (int64_t n : {17, 40, 64}) {
    m.run(*gpu, n);
    const std::vector<float> x = fetch(m.stream.x.rows(0, n)), logits = fetch(m.logits.rows(0, n));
    m.run(*gpu, 8);  // the first of them
    auto first = [](const std::vector<float>& all, int64_t cols) {
      return std::vector<float>(all.begin(), all.begin() + 8 * cols);
    };
    SCOPED_TRACE("batch " + std::to_string(n));
    expect_close("x", fetch(m.stream.x.rows(0, 8)), first(x, m.s.H), testing::kOpBf16);
    expect_close("logits", fetch(m.logits.rows(0, 8)), first(logits, m.s.vocab), testing::kOpBf16);
  }
}

TEST_P(DecodeStep, AGraphDoesWhatTheCallsDo) {
  SmallModel m = make(GetParam());
  cudaStream_t stream = stream_of(*gpu);
  for (int64_t n : {1, 8, 12, 32, 64}) {
    m.run(*gpu, n);  // kernels are loaded outside the capture
    cudaGraph_t graph;
    cudaGraphExec_t run;
    RESTKV_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    m.run(*gpu, n);
    m.run(*gpu, n);
    RESTKV_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    RESTKV_CUDA_CHECK(cudaGraphInstantiate(&run, graph, 0));
    for (int32_t step : {1, 2, 3}) {
      set(m, step);
      m.run(*gpu, n);
      auto eager = results(m, n);
      set(m, step + 100);
      m.run(*gpu, n);
      EXPECT_NE(eager, results(m, n));
      set(m, step);
      for (int i = 0; i < 5; ++i) RESTKV_CUDA_CHECK(cudaGraphLaunch(run, stream));
      EXPECT_EQ(eager, results(m, n)) << "batch " << n;
    }
    cudaGraphExecDestroy(run);
    cudaGraphDestroy(graph);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DecodeStep,
                         ::testing::Values(Shape8{576, 1536, 9, 3, 64, 4999}, Shape8{64, 176, 4, 1, 16, 96},
                                           Shape8{4096, 6144, 32, 8, 128, 12000}, Shape8{512, 14336, 8, 2, 64, 999},
                                           Shape8{512, 7176, 8, 2, 64, 500}, Shape8{6144, 2048, 8, 2, 128, 6000}));

}  // namespace
}  // namespace restkv
