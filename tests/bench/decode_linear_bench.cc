// The matrix products of a decode step at the shapes of Llama-3.1-8B (32 layers, random weights, 15 GB), each inside a
// CUDA graph: time and bytes of weights per second, product by product and as the chain of a whole step, by the ops of
// decode_linear.h and by cuBLASLt alone (gemm.h, without norms, rotation, activation and residual) in the same run.
// Usage: decode_linear_bench [batch ...]
#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include "dist/base/error.h"
#include "dist/base/gpu_handles.h"
#include "dist/base/mix.h"
#include "model/ops/decode_linear.h"

namespace restkv {
namespace {

constexpr int kLayers = 32;
constexpr int64_t kHidden = 4096, kHq = 32, kHkv = 8, kHeadSize = 128, kMlp = 14336, kVocab = 128256;
constexpr int64_t kQ = kHq * kHeadSize, kKv = kHkv * kHeadSize;
constexpr double kEps = 1e-5;

struct Layer {
  Tensor qkv, o, gate_up, down;
};

// Everything of one step. The layers' weights are different memory, so that nothing is served by the cache.
class Step {
 public:
  explicit Step(Context& ctx) : ctx_(ctx) {
    std::vector<bf16> host(size_t{1} << 22);
    for (size_t i = 0; i < host.size(); ++i)
      host[i] = to_bf16(static_cast<float>(unit_interval(mix64(i)) - 0.5) * 0.05f);
    pattern_ = ctx.to_device(host.data(), DType::bf16, {static_cast<int64_t>(host.size())});
    for (int i = 0; i < kLayers; ++i)
      layers_.push_back(
          {weight(kQ + 2 * kKv, kHidden), weight(kHidden, kQ), weight(2 * kMlp, kHidden), weight(kHidden, kMlp)});
    head_ = weight(kVocab, kHidden);
    std::vector<float> norm(kHidden, 1.0f), frequencies(kHeadSize / 2, 0.01f);
    norm_ = ctx.to_device(norm.data(), DType::f32, {kHidden});
    frequencies_ = ctx.to_device(frequencies.data(), DType::f32, {kHeadSize / 2});
    std::vector<int32_t> numbers(kMaxDecodeBatch, 1000);
    numbers_ = ctx.to_device(numbers.data(), DType::i32, {kMaxDecodeBatch});
    stream_ = make_decode_stream(ctx, kMaxDecodeBatch, kHidden, 2 * kMlp);
    for (auto [tensor, cols] : {std::pair(&q_, kQ), {&k_, kKv}, {&v_, kKv}, {&y_, kHidden}, {&mlp_, 2 * kMlp}}) {
      *tensor = ctx.empty(DType::bf16, {kMaxDecodeBatch, cols});
      ctx.fill_zero(tensor->raw(), tensor->bytes());
    }
    logits_ = ctx.empty(DType::f32, {kMaxDecodeBatch, kVocab});
  }

  void embed(int64_t n) { decode_embed(ctx_, numbers_.rows(0, n), head_, {0, kVocab}, norm_, stream_.first(n)); }
  void qkv(int layer, int64_t n) {
    MatrixView w(layers_[layer].qkv);
    DecodeQkv args;
    args.wq = w.block(0, kQ, 0, kHidden);
    args.wk = w.block(kQ, kKv, 0, kHidden);
    args.wv = w.block(kQ + kKv, kKv, 0, kHidden);
    args.d = kHeadSize;
    args.frequencies = frequencies_.data<float>();
    args.positions = numbers_.data<int32_t>();
    args.q = rows(q_, n), args.k = rows(k_, n), args.v = rows(v_, n);
    decode_qkv(ctx_, stream_.first(n), kEps, args);
  }
  void o(int layer, int64_t n) {
    decode_residual(ctx_, rows(q_, n), MatrixView(layers_[layer].o), norm_, stream_.first(n));
  }
  void gate_up(int layer, int64_t n) {
    MatrixView w(layers_[layer].gate_up);
    decode_gate_up(ctx_, stream_.first(n), kEps, w.block(0, kMlp, 0, kHidden), w.block(kMlp, kMlp, 0, kHidden),
                   Activation::silu, activated(n));
  }
  void down(int layer, int64_t n) {
    decode_residual(ctx_, activated(n), MatrixView(layers_[layer].down), norm_, stream_.first(n));
  }
  void logits(int64_t n) { decode_logits(ctx_, stream_.first(n), kEps, MatrixView(head_), rows(logits_, n)); }

  // The same products by cuBLASLt, without what stands between them.
  void blas(const Tensor Layer::*w, int layer, int64_t n) {
    const Tensor& weights = layers_[layer].*w;
    bool wide = weights.size(0) == 2 * kMlp, qkv = weights.size(0) == kQ + 2 * kKv;
    MatrixView x = weights.size(1) == kMlp ? activated(n) : rows(q_, n);
    MatrixView y = wide || qkv ? MatrixView(mlp_.raw(), DType::bf16, n, weights.size(0), weights.size(0)) : rows(y_, n);
    gemm(ctx_, x, MatrixView(weights), y);
  }
  void blas_logits(int64_t n) { gemm(ctx_, rows(q_, n), MatrixView(head_), rows(logits_, n)); }

  void all(int64_t n) {
    embed(n);
    for (int i = 0; i < kLayers; ++i) qkv(i, n), o(i, n), gate_up(i, n), down(i, n);
    logits(n);
  }
  void blas_all(int64_t n) {
    for (int i = 0; i < kLayers; ++i)
      for (auto w : {&Layer::qkv, &Layer::o, &Layer::gate_up, &Layer::down}) blas(w, i, n);
    blas_logits(n);
  }

 private:
  // Any values do for a measurement of speed; copies of one pattern are made quickly.
  Tensor weight(int64_t n, int64_t k) {
    Tensor w = ctx_.empty(DType::bf16, {n, k});
    for (int64_t done = 0; done < w.bytes(); done += pattern_.bytes())
      ctx_.gpu()->copy(static_cast<char*>(w.raw()) + done, pattern_.raw(),
                       std::min(pattern_.bytes(), w.bytes() - done));
    return w;
  }
  static MatrixView rows(const Tensor& t, int64_t n) { return MatrixView(t).block(0, n, 0, t.size(1)); }
  MatrixView activated(int64_t n) const { return {mlp_.raw(), DType::bf16, n, kMlp, kMlp}; }

  Context& ctx_;
  Tensor pattern_, head_, norm_, frequencies_, numbers_, q_, k_, v_, y_, mlp_, logits_;
  std::vector<Layer> layers_;
  DecodeStream stream_;
};

// Microseconds of what `enqueue` enqueues, as a graph: median of nine replays.
double microseconds(Context& ctx, const std::function<void()>& enqueue) {
  enqueue();  // plans and kernels are loaded outside the capture
  ctx.synchronize();
  cudaStream_t stream = stream_of(ctx);
  cudaGraph_t graph;
  cudaGraphExec_t run;
  RESTKV_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue();
  RESTKV_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  RESTKV_CUDA_CHECK(cudaGraphInstantiate(&run, graph, 0));
  cudaEvent_t begin, end;
  RESTKV_CUDA_CHECK(cudaEventCreate(&begin));
  RESTKV_CUDA_CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 11; ++i) {
    float ms = 0.0f;
    RESTKV_CUDA_CHECK(cudaEventRecord(begin, stream));
    RESTKV_CUDA_CHECK(cudaGraphLaunch(run, stream));
    RESTKV_CUDA_CHECK(cudaEventRecord(end, stream));
    RESTKV_CUDA_CHECK(cudaEventSynchronize(end));
    RESTKV_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(1e3f * ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(run);
  cudaGraphDestroy(graph);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

// One line: ours, cuBLASLt.
void compare(Context& ctx, const char* name, double bytes, int times, const std::function<void()>& ours,
             const std::function<void()>& blas) {
  const double mine = microseconds(ctx, ours) / times, library = microseconds(ctx, blas) / times;
  std::printf("  %-8s %9.2f us %5.2f TB/s   cuBLASLt alone %9.2f us %5.2f TB/s\n", name, mine, bytes / mine / 1e6,
              library, bytes / library / 1e6);
}

void measure(Context& ctx, Step& step, int64_t n) {
  std::printf("batch %d\n", static_cast<int>(n));
  auto layers = [](const std::function<void(int)>& body) {
    return [body] {
      for (int i = 0; i < kLayers; ++i) body(i);
    };
  };
  step.embed(n);
  double H = kHidden, layer = 2 * H * (kQ + 2 * kKv + kQ + 3 * kMlp), head = 2 * H * kVocab;
  compare(ctx, "qkv", 2 * H * (kQ + 2 * kKv), kLayers, layers([&](int i) { step.qkv(i, n); }),
          layers([&](int i) { step.blas(&Layer::qkv, i, n); }));
  compare(ctx, "o", 2 * H * kQ, kLayers, layers([&](int i) { step.o(i, n); }),
          layers([&](int i) { step.blas(&Layer::o, i, n); }));
  compare(ctx, "gate+up", 4 * H * kMlp, kLayers, layers([&](int i) { step.gate_up(i, n); }),
          layers([&](int i) { step.blas(&Layer::gate_up, i, n); }));
  compare(ctx, "down", 2 * H * kMlp, kLayers, layers([&](int i) { step.down(i, n); }),
          layers([&](int i) { step.blas(&Layer::down, i, n); }));
  compare(
      ctx, "logits", head, 1, [&] { step.logits(n); }, [&] { step.blas_logits(n); });
  compare(
      ctx, "step", kLayers * layer + head, 1, [&] { step.all(n); }, [&] { step.blas_all(n); });
}

int run(int argc, char** argv) {
  std::vector<int64_t> batches;
  for (int i = 1; i < argc; ++i) batches.push_back(std::atoi(argv[i]));
  if (batches.empty()) batches = {1, 8, 16, 32, 64};
  Context ctx(Context::Options{Device::gpu, 1});
  Step step(ctx);
  std::printf("%s\n", ctx.gpu()->describe().c_str());
  for (int64_t n : batches) measure(ctx, step, n);
  return 0;
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) {
  try {
    return restkv::run(argc, argv);
  } catch (const restkv::Error& e) {
    std::fprintf(stderr, "decode_linear_bench: %s\n", e.what());
    return e.exit_code();
  }
}
