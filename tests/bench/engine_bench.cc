// Speed and memory of the engine on CPU ranks, beside the ceilings of the same machine measured in the same run:
//   mpirun -np N engine_bench MODEL [tokens ...]
// Prints one table: prefill against the float32 GEMM rate of OpenBLAS, decode against memory-copy bandwidth in bytes
// of weights, eviction as a share of prefill, peak memory of ReST-KV against the full cache.
#include <cblas.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <thread>

#include "dist/base/blas_kernels.h"
#include "dist/base/error.h"
#include "dist/base/mix.h"
#include "dist/base/stopwatch.h"
#include "dist/comm/mpi_runtime.h"
#include "model/checkpoint.h"
#include "model/sampler.h"
#include "model/transformer.h"

namespace restkv {
namespace {

constexpr int kDecodeSteps = 32;

// GFLOP/s of a large float32 product with all threads of this rank.
double gemm_ceiling(int threads) {
  constexpr int n = 1536;
  std::vector<float> a(n * n), b(n * n), c(n * n);
  for (int i = 0; i < n * n; ++i) a[i] = b[i] = static_cast<float>(unit_interval(mix64(i)));
  openblas_set_num_threads(threads);
  double best = 1e9;
  for (int repeat = 0; repeat < 4; ++repeat) {
    Stopwatch watch;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1.0f, a.data(), n, b.data(), n, 0.0f, c.data(), n);
    best = std::min(best, watch.seconds());
  }
  openblas_set_num_threads(1);
  return 2.0 * n * n * n / best / 1e9;
}

// GB/s of a copy much larger than the caches, bytes read and written, with all threads of this rank.
double copy_ceiling(int threads) {
  const size_t bytes = size_t{512} << 20;
  std::vector<char> from(bytes, 1), to(bytes, 2);
  double best = 1e9;
  for (int repeat = 0; repeat < 4; ++repeat) {
    Stopwatch watch;
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t)
      pool.emplace_back([&, t] {
        size_t first = bytes / threads * t, last = bytes / threads * (t + 1);
        std::memcpy(to.data() + first, from.data() + first, last - first);
      });
    for (auto& thread : pool) thread.join();
    best = std::min(best, watch.seconds());
  }
  return 2.0 * static_cast<double>(bytes) / best / 1e9;
}

// Floating-point operations of a prefill of L tokens, causal attention counted once per visible pair.
double prefill_flops(const ModelConfig& c, double L) {
  double linear =
      static_cast<double>(c.layers) * (c.hidden * c.d * (2.0 * c.Hq + 2.0 * c.Hkv) + 3.0 * c.hidden * c.intermediate);
  double attention = static_cast<double>(c.layers) * 2.0 * L * c.Hq * c.d;  // 4 per pair, half of the pairs
  return 2.0 * linear * L + attention * L + 2.0 * c.vocab * c.hidden;
}

struct Row {
  double prefill_s = 0, evict_s = 0, decode_s = 0;
  double attention_s = 0, gemm_s = 0, exchange_s = 0;
  int64_t cache_bytes = 0, peak_bytes = 0, weight_bytes = 0;
};

Row measure(const ProcessGrid& grid, const Checkpoint& checkpoint, int64_t tokens, const char* policy, int threads) {
  Context ctx({Device::cpu, threads});
  CacheConfig cache;
  cache.policy = policy;
  cache.budget.fraction = 0.15;
  Transformer model(ctx, grid, checkpoint.config, *checkpoint.weights, cache, {});
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < tokens; ++i)
    prompt.push_back(static_cast<int32_t>(mix64(i) % static_cast<uint64_t>(checkpoint.config.vocab)));
  PrefillOptions options;
  options.max_new_tokens = kDecodeSteps;
  Sequence sequence = model.prefill(prompt, options);
  Row row;
  row.prefill_s = sequence.report.seconds;
  row.evict_s = sequence.report.evict_seconds;
  row.attention_s = sequence.report.seconds_of("attention");
  row.gemm_s = sequence.report.seconds_of("gemm");
  row.exchange_s = sequence.report.seconds_of("exchange");
  row.cache_bytes = sequence.report.cache_bytes;
  row.weight_bytes = model.weights().bytes();
  Stopwatch watch;
  for (int i = 0; i < kDecodeSteps; ++i) model.decode_step(sequence, sample(sequence.logits, {}, 0, i));
  row.decode_s = watch.seconds() / kDecodeSteps;
  row.peak_bytes = ctx.memory().peak();
  return row;
}

int run(int argc, char** argv) {
  MpiRuntime runtime(&argc, &argv);
  if (argc < 2) fail_input("usage: engine_bench MODEL [tokens ...]");
  std::vector<int64_t> lengths;
  for (int i = 2; i < argc; ++i) lengths.push_back(std::atoll(argv[i]));
  if (lengths.empty()) lengths = {2048, 6144};
  int ranks = runtime.size();
  int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / runtime.local_size());
  Checkpoint checkpoint = open_checkpoint(argv[1]);
  ProcessGrid grid(runtime.world(600), ranks, 1);
  std::string kernels = choose_blas_kernels();
  grid.world().barrier();
  // Ranks of one host share its memory bus: all measure at once, and the rates are summed.
  double ceilings[2] = {gemm_ceiling(threads), copy_ceiling(threads)};
  grid.world().all_reduce(std::span<double>(ceilings));
  bool root = grid.is_root();
  if (root)
    printf(
        "%d rank(s) x %d thread(s); float32 GEMM (OpenBLAS, %s kernels) %.1f GFLOP/s; copy %.1f GB/s (read + "
        "written)\n",
        ranks, threads, kernels.c_str(), ceilings[0], ceilings[1]);
  if (root)
    printf("%7s %-7s %9s %8s %6s %22s %8s %11s %8s %7s %10s %10s\n", "tokens", "policy", "prefill s", "GFLOP/s",
           "share", "gemm/attn/exchange s", "evict s", "ms a layer", "decode/s", "share", "cache MiB", "peak MiB");
  for (int64_t tokens : lengths)
    for (const char* policy : {"full", "restkv"}) {
      Row row = measure(grid, checkpoint, tokens, policy, threads);
      double rate = prefill_flops(checkpoint.config, static_cast<double>(tokens)) / row.prefill_s / 1e9;
      double bandwidth = static_cast<double>(row.weight_bytes) / row.decode_s / 1e9;
      if (root)
        printf("%7ld %-7s %9.2f %8.1f %5.0f%% %8.2f/%5.2f/%5.2f %8.3f %6.2f (%3.1f%%) %8.1f %6.0f%% %10.1f %10.1f\n",
               static_cast<long>(tokens), policy, row.prefill_s, rate, 100 * rate / ceilings[0], row.gemm_s,
               row.attention_s, row.exchange_s, row.evict_s,
               1e3 * row.evict_s / static_cast<double>(checkpoint.config.layers), 100 * row.evict_s / row.prefill_s,
               1 / row.decode_s, 100 * bandwidth / ceilings[1], static_cast<double>(row.cache_bytes) / 1048576,
               static_cast<double>(row.peak_bytes) / 1048576);
    }
  return 0;
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) {
  try {
    return restkv::run(argc, argv);
  } catch (const restkv::Error& e) {
    fprintf(stderr, "%s\n", e.what());
    return e.exit_code();
  }
}
