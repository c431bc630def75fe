#include "launch/bench/ceilings.h"

#include <cblas.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "dist/base/blas_kernels.h"
#include "dist/base/gemm.h"
#include "dist/base/mix.h"
#include "dist/base/stopwatch.h"
#include "model/weights/random_fill.h"

namespace restkv {
namespace {

constexpr int kRepeats = 5;

/// Least seconds of one of several runs, the first of which does not count.
template <class Body>
double least_seconds(const Context& ctx, const Body& body) {
  double least = 1e30;
  for (int i = 0; i <= kRepeats; ++i) {
    ctx.synchronize();
    Stopwatch watch;
    body();
    ctx.synchronize();
    if (i > 0) least = std::min(least, watch.seconds());
  }
  return least;
}

// The BLAS library itself, with all threads of this rank: what our tiles are held against.
double cpu_gemm(const Context& ctx) {
  constexpr int n = 1536;
  std::vector<float> a(static_cast<size_t>(n) * n), b(a.size()), c(a.size());
  for (size_t i = 0; i < a.size(); ++i) a[i] = b[i] = static_cast<float>(unit_interval(mix64(i)));
  choose_blas_kernels();
  openblas_set_num_threads(ctx.threads());
  double seconds = least_seconds(ctx, [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1.0f, a.data(), n, b.data(), n, 0.0f, c.data(), n);
  });
  openblas_set_num_threads(1);  // as Context sets it
  return 2.0 * n * n * n / seconds;
}

double cpu_copy(Context& ctx) {
  const int64_t parts = ctx.threads(), part = (int64_t{256} << 20) / parts, bytes = part * parts;
  Tensor from = ctx.zeros(DType::u8, {bytes}), to = ctx.zeros(DType::u8, {bytes});
  double seconds = least_seconds(ctx, [&] {
    ctx.parallel_for(parts, [&](int64_t t) {
      int64_t first = part * t;
      std::memcpy(to.data<uint8_t>() + first, from.data<uint8_t>() + first, static_cast<size_t>(part));
    });
  });
  return 2.0 * static_cast<double>(bytes) / seconds;
}

// Random operands: zeros draw less power and would run at a clock that no model reaches.
double gpu_gemm(Context& ctx) {
  constexpr int64_t n = 8192;
  constexpr int kCalls = 8;
  RandomElements elements;
  elements.width = n;
  elements.rows = elements.cols = {0, n};
  Tensor x = ctx.empty(DType::bf16, {n, n}), w = ctx.empty(DType::bf16, {n, n}), y = ctx.empty(DType::bf16, {n, n});
  random_fill(ctx, elements, x);
  elements.key = 1;
  random_fill(ctx, elements, w);
  double seconds = least_seconds(ctx, [&] {
    for (int i = 0; i < kCalls; ++i) gemm(ctx, MatrixView(x), MatrixView(w), MatrixView(y));
  });
  return kCalls * 2.0 * static_cast<double>(n * n) * n / seconds;
}

double gpu_copy(Context& ctx) {
  constexpr int64_t bytes = int64_t{1} << 30;
  constexpr int kCalls = 8;
  Tensor from = ctx.zeros(DType::u8, {bytes}), to = ctx.zeros(DType::u8, {bytes});
  double seconds = least_seconds(ctx, [&] {
    for (int i = 0; i < kCalls; ++i) ctx.gpu()->copy(to.raw(), from.raw(), bytes);
  });
  return kCalls * 2.0 * static_cast<double>(bytes) / seconds;
}

}  // namespace

Ceilings measure_ceilings(Context& ctx, Communicator& world) {
  bool gpu = ctx.device() == Device::gpu;
  std::array<double, 2> rates{};
  world.barrier();
  rates[0] = gpu ? gpu_gemm(ctx) : cpu_gemm(ctx);
  world.barrier();
  rates[1] = gpu ? gpu_copy(ctx) : cpu_copy(ctx);
  world.all_reduce(std::span<double>(rates));
  return {rates[0], rates[1], world.size()};
}

}  // namespace restkv
