// Time of each scoring op of one layer on one GPU, in the order in which eviction calls them (bf16, seeded values):
//   scoring_bench [L ...]     Hq 32, Hkv 8, d 128, W 32: the shape of Llama-3.1-8B
// CUDA events between the ops of one stream without a host wait: medians of 20 layers after 3 of warm-up.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>

#include "dist/base/error.h"
#include "dist/base/gpu_handles.h"
#include "dist/base/mix.h"
#include "kvcache/gpu/has_warpgroups.h"
#include "kvcache/scores/group_mean.h"
#include "kvcache/scores/reconstruction_kernels.h"
#include "kvcache/statistics/column_sums_kernels.h"
#include "kvcache/statistics/exchange.h"
#include "kvcache/statistics/window_attention.h"
#include "kvcache/statistics/window_logits.h"
#include "kvcache/statistics/window_output_kernels.h"

namespace restkv {
namespace {

constexpr int kWarmUp = 3, kRepeats = 20;

struct Step {
  std::string name;
  std::function<void()> run;
};

// Medians in microseconds of the steps, which run one after another.
std::vector<double> time_steps(Context& ctx, const std::vector<Step>& steps) {
  std::vector<cudaEvent_t> events(steps.size() + 1);
  for (cudaEvent_t& e : events) RESTKV_CUDA_CHECK(cudaEventCreate(&e));
  std::vector<std::vector<double>> times(steps.size());
  for (int repeat = 0; repeat < kWarmUp + kRepeats; ++repeat) {
    RESTKV_CUDA_CHECK(cudaEventRecord(events[0], stream_of(ctx)));
    for (size_t i = 0; i < steps.size(); ++i) {
      steps[i].run();
      RESTKV_CUDA_CHECK(cudaEventRecord(events[i + 1], stream_of(ctx)));
    }
    ctx.synchronize();
    for (size_t i = 0; i < steps.size() && repeat >= kWarmUp; ++i) {
      float ms = 0.0f;
      RESTKV_CUDA_CHECK(cudaEventElapsedTime(&ms, events[i], events[i + 1]));
      times[i].push_back(1e3 * ms);
    }
  }
  for (cudaEvent_t& e : events) RESTKV_CUDA_CHECK(cudaEventDestroy(e));
  std::vector<double> medians;
  for (auto& t : times) {
    std::nth_element(t.begin(), t.begin() + kRepeats / 2, t.end());
    medians.push_back(t[kRepeats / 2]);
  }
  return medians;
}

// Sums of four uniform numbers, near enough to normal; variance 1.
Tensor random_rows(Context& ctx, int64_t rows, int64_t cols, uint64_t seed) {
  std::vector<bf16> values(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint64_t bits = mix64(seed * 0x9e3779b97f4a7c15ull + i);
    double sum = -2.0;
    for (int n = 0; n < 4; ++n) sum += static_cast<double>(bits >> (16 * n) & 0xffff) / 65536.0;
    values[i] = to_bf16(static_cast<float>(sum * 1.7320508));
  }
  return ctx.to_device(values.data(), DType::bf16, {rows, cols});
}

void measure(Context& ctx, int64_t L) {
  const int64_t Hq = 32, Hkv = 8, d = 128, W = 32, rows = Hq * W, P = L - W;
  const HeadLayout heads{Hq, Hkv, d, {{0, Hq}, {0, Hkv}}};
  const SequencePartition partition(L, 1);
  const LocalShard shard = make_local_shard(partition, 0, W);
  const std::vector<int64_t> slot = block_slots(partition);
  const Tensor q = random_rows(ctx, W, Hq * d, 1), k = random_rows(ctx, L, Hkv * d, 2);
  const Tensor v = random_rows(ctx, L, Hkv * d, 3);
  std::vector<float> factors(static_cast<size_t>(Hq * d * d));
  for (size_t i = 0; i < factors.size(); ++i)
    factors[i] = i % d >= i / d % d ? static_cast<float>(unit_interval(mix64(i)) - 0.5) : 0.0f;
  const Tensor r = ctx.to_device(factors.data(), DType::f32, {Hq, d, d});
  const int64_t inputs = ctx.memory().current();
  ctx.memory().reset_peak();
  const auto floats = [&](Shape shape) { return ctx.empty(DType::f32, std::move(shape)); };
  const int64_t blocks = partition.blocks();
  Tensor logits = floats({rows, shard.stride}), partials = floats({blocks, rows, 2}), softmax = floats({rows, 2});
  Tensor a = floats({Hq, shard.stride}), outputs = floats({blocks, Hq, d}), o = floats({Hq, d});
  Tensor s = floats({Hq, shard.stride}), mean = floats({Hkv, shard.stride});
  std::vector<std::vector<const float*>> members(static_cast<size_t>(Hkv));
  for (int64_t h = 0; h < Hq; ++h) members[h / 4].push_back(s.data<float>() + h * shard.stride);
  const std::vector<Step> steps = {
      {"window_logits",
       [&] {
         window_logits(ctx, heads, shard, MatrixView(q), MatrixView(k), logits.data<float>(), partials.data<float>());
       }},
      {"fold_softmax", [&] { fold_softmax(ctx, partials.data<float>(), slot, rows, softmax.data<float>()); }},
      {"window_attention",
       [&] {
         window_attention(ctx, heads, shard, logits.data<float>(), softmax.data<float>(), RowReduction::ema, 0.3,
                          a.data<float>());
       }},
      {"past_output_partials",
       [&] { past_output_partials(ctx, heads, shard, a.data<float>(), MatrixView(v), outputs.data<float>()); }},
      {"fold_outputs", [&] { fold_outputs(ctx, outputs.data<float>(), slot, Hq, d, o.data<float>()); }},
      {"reconstruction_after",
       [&] {
         reconstruction_after(ctx, heads, shard, a.data<float>(), o.data<float>(), MatrixView(v), r.data<float>(), 1.0,
                              s.data<float>());
       }},
      {"group_mean", [&] { group_mean(ctx, members, P, shard.stride, mean.data<float>()); }},
  };
  const std::vector<double> times = time_steps(ctx, steps);
  double sum = 0.0;
  for (size_t i = 0; i < steps.size(); ++i) {
    printf("%8ld  %-22s %9.1f us\n", static_cast<long>(L), steps[i].name.c_str(), times[i]);
    sum += times[i];
  }
  printf("%8ld  %-22s %9.1f us, extra memory %.1f MiB\n", static_cast<long>(L), "all", sum,
         static_cast<double>(ctx.memory().peak() - inputs) / 1048576);
  // Kernels of the same side by side: whole steps, so that the caches are as they are in a layer.
  std::vector<Step> kernels;
  for (const auto& [name, kernel] : {std::pair("norms by warps", gpu::NormKernel::warps),
                                     std::pair("norms by warpgroups", gpu::NormKernel::warpgroups)}) {
    if (kernel != gpu::NormKernel::warps && !gpu::has_warpgroups()) continue;
    kernels.push_back({name, [&, which = kernel] {
                         gpu::reconstruction_after(ctx, heads, shard, a.data<float>(), o.data<float>(), MatrixView(v),
                                                   r.data<float>(), 1.0, s.data<float>(), which);
                       }});
  }
  const std::vector<double> by_kernel = time_steps(ctx, kernels);
  for (size_t i = 0; i < kernels.size(); ++i)
    printf("%8ld  %-22s %9.1f us\n", static_cast<long>(L), kernels[i].name.c_str(), by_kernel[i]);
  // Mode before, and the norms without factors, are not of the default path.
  Tensor window = floats({blocks, rows, d}), window_o = floats({rows, d});
  const std::vector<Step> others = {
      {"window_output_partials",
       [&] {
         window_output_partials(ctx, heads, shard, logits.data<float>(), softmax.data<float>(), MatrixView(v),
                                window.data<float>());
       }},
      {"the same, plain",
       [&] {
         gpu::window_output_partials(ctx, heads, shard, logits.data<float>(), softmax.data<float>(), MatrixView(v),
                                     window.data<float>(), gpu::OutputKernel::plain);
       }},
      {"fold_outputs (before)",
       [&] { fold_outputs(ctx, window.data<float>(), slot, rows, d, window_o.data<float>()); }},
      {"reconstruction_before",
       [&] {
         reconstruction_before(ctx, heads, shard, logits.data<float>(), softmax.data<float>(), window_o.data<float>(),
                               MatrixView(v), r.data<float>(), {}, s.data<float>());
       }},
      {"the same, plain",
       [&] {
         gpu::reconstruction_before(ctx, heads, shard, logits.data<float>(), softmax.data<float>(),
                                    window_o.data<float>(), MatrixView(v), r.data<float>(), {}, s.data<float>(),
                                    gpu::BeforeKernel::plain);
       }},
      {"after, without factors",
       [&] {
         reconstruction_after(ctx, heads, shard, a.data<float>(), o.data<float>(), MatrixView(v), nullptr, 1.0,
                              s.data<float>());
       }},
  };
  const std::vector<double> more = time_steps(ctx, others);
  for (size_t i = 0; i < others.size(); ++i)
    printf("%8ld  %-22s %9.1f us\n", static_cast<long>(L), others[i].name.c_str(), more[i]);
  // h2o's pass over all queries; its time does not depend on the log-sum-exps.
  const Tensor prompt_q = random_rows(ctx, L, Hq * d, 4);
  Tensor lse = ctx.zeros(DType::f32, {Hq, L}), sums = ctx.empty(DType::i64, {Hq, L});
  const double causal = static_cast<double>(L) * static_cast<double>(L) * static_cast<double>(Hq * d) / 1e6;
  std::vector<Step> h2o;
  for (const auto& [name, kernel] : {std::pair("columns by warps", gpu::ColumnKernel::warps),
                                     std::pair("columns by warpgroups", gpu::ColumnKernel::warpgroups)}) {
    if (kernel != gpu::ColumnKernel::warps && !gpu::has_warpgroups()) continue;
    h2o.push_back({name, [&, which = kernel] {
                     gpu::column_sums(ctx, heads, shard, {MatrixView(prompt_q), MatrixView(k), lse.data<float>()},
                                      sums.data<int64_t>(), which);
                   }});
  }
  const std::vector<double> pass = time_steps(ctx, h2o);
  for (size_t i = 0; i < h2o.size(); ++i)
    printf("%8ld  %-22s %9.1f us, %.1f TFLOP/s of the causal half\n", static_cast<long>(L), h2o[i].name.c_str(),
           pass[i], causal / pass[i]);
  const std::vector<Step> scores = {
      {"column_scores", [&] { column_scores(ctx, heads, shard, sums.data<int64_t>(), s.data<float>()); }}};
  printf("%8ld  %-22s %9.1f us\n", static_cast<long>(L), "column_scores", time_steps(ctx, scores)[0]);
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) {
  try {
    restkv::Context ctx({restkv::Device::gpu, 1});
    printf("%s\n", ctx.gpu()->describe().c_str());
    for (int i = 1; i < argc; ++i) restkv::measure(ctx, std::atoll(argv[i]));
    if (argc < 2)
      for (int64_t L : {32768, 131072, 262144}) restkv::measure(ctx, L);
    return 0;
  } catch (const restkv::Error& e) {
    fprintf(stderr, "%s\n", e.what());
    return e.exit_code();
  }
}
