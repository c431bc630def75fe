// Microseconds per op of a layer's selection, smoothing and compaction on one GPU, at the shape of Llama-3.1-8B and a
// prompt of 131,072 tokens (or L tokens: select_bench L; the whole layer alone: select_bench L layer).
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <random>

#include "kvcache/evict.h"
#include "kvcache/kv_cache.h"
#include "kvcache/output_factors.h"
#include "kvcache/scores/drift.h"
#include "kvcache/scores/pooling.h"
#include "kvcache/select/radix_select.h"
#include "kvcache/statistics/window_attention.h"

namespace restkv {
namespace {

constexpr int64_t kHq = 32, kHkv = 8, kD = 128, kWindow = 32, kBudget = 1024;

struct Bench {
  explicit Bench(int64_t L_) : L(L_) {}

  // Median device time of 21 runs; before each, other data goes through the L2 cache.
  void time(const std::string& name, double bytes, const std::function<void()>& body, int warm = 3) {
    for (int i = 0; i < warm; ++i) body();
    std::vector<double> seconds;
    for (int i = 0; i < 21; ++i) {
      ctx.fill_zero(sweep.raw(), sweep.bytes());
      auto from = ctx.gpu()->mark();
      body();
      auto to = ctx.gpu()->mark();
      seconds.push_back(ctx.gpu()->seconds_between(from.get(), to.get()));
    }
    std::sort(seconds.begin(), seconds.end());
    fmt::print("{:42s} {:9.1f} us   least {:9.1f}   {:6.2f} TB/s\n", name, seconds[10] * 1e6, seconds[0] * 1e6,
               bytes / seconds[10] * 1e-12);
  }

  // rows of n values: windows of one random sequence at different places.
  Tensor rows(int64_t count, int64_t n, const std::function<std::vector<float>(int64_t)>& make) {
    const int64_t spread = 997;
    const std::vector<float> base = make(n + count * spread);
    Tensor from = ctx.to_device(base.data(), DType::f32, {n + count * spread});
    Tensor result = ctx.empty(DType::f32, {count, n});
    for (int64_t row = 0; row < count; ++row)
      ctx.copy(result.data<float>() + row * n, from.data<float>() + row * spread, n * 4);
    ctx.synchronize();
    return result;
  }

  int64_t L;
  Context ctx{Context::Options{Device::gpu, 1}};
  std::unique_ptr<Communicator> self = make_self_communicator();
  Tensor sweep = ctx.empty(DType::u8, {int64_t{256} << 20});
};

std::vector<float> noise(int64_t n, float memory) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(n));
  float last = 0.0f;
  for (float& value : x) value = last = memory * last + normal(random);
  return x;
}

void bench_select(Bench& b) {
  const std::vector<Segment> all = {{0, 0, b.L}};
  const double bytes = static_cast<double>(kHq * kWindow * b.L) * 4;
  Tensor sums = b.ctx.empty(DType::i64, {kHq * kWindow});
  auto run = [&](const std::string& name, const Tensor& values, int64_t k) {
    const SelectRows input{values.data<float>(), values.size(0), b.L, &all, b.L};
    b.time(name, bytes, [&] { select_top(b.ctx, *b.self, input, k, sums.data<int64_t>()); });
  };
  {
    Tensor values = b.rows(kHq * kWindow, b.L, [](int64_t n) { return noise(n, 0.0f); });
    for (int64_t k : {kBudget - kWindow, b.L / 16, b.L / 5, b.L / 2})
      run(fmt::format("E4 top sets, independent, k {}", k), values, k);
  }
  {
    Tensor values = b.rows(kHq * kWindow, b.L, [](int64_t n) { return noise(n, 0.98f); });
    run("E4 top sets, neighbours alike", values, kBudget - kWindow);
  }
  {
    Tensor values = b.rows(kHq * kWindow, b.L, [](int64_t n) {
      std::vector<float> x = noise(n, 0.0f);
      for (float& value : x) value = std::max(value, 2.5f);
      return x;
    });
    run("E4 top sets, ties at the cut (slow way)", values, kBudget - kWindow);
  }
  Tensor scores = b.rows(kHkv, b.L, [](int64_t n) { return noise(n, 0.9f); });
  const std::vector<Segment> past = {{0, 0, b.L - kWindow}};
  const SelectRows input{scores.data<float>(), kHkv, b.L, &past, b.L - kWindow};
  SelectResult top;
  b.time("E5 cuts", static_cast<double>(kHkv * b.L) * 4,
         [&] { top = select_top(b.ctx, *b.self, input, kBudget - kWindow); });
  b.time("E6 index lists", static_cast<double>(kHkv * b.L) * 8, [&] {
    top_set_rows(b.ctx, input, top.cut(), {b.L - kWindow, b.L}, kBudget);
  });
}

// The attention and the top sets of the same logits, with two passes over them and with one.
void bench_beside(Bench& b) {
  const HeadLayout heads{kHq, kHkv, kD, {{0, kHq}, {0, kHkv}}};
  const SequencePartition partition(b.L, 1);
  const LocalShard shard = make_local_shard(partition, 0, kWindow);
  const int64_t rows = kHq * kWindow;
  const double bytes = static_cast<double>(rows * b.L) * 4;
  Tensor a = b.ctx.empty(DType::f32, {kHq, shard.stride}), sums = b.ctx.empty(DType::i64, {rows});
  std::vector<float> maximum_and_rest;
  for (int64_t row = 0; row < rows; ++row)
    maximum_and_rest.insert(maximum_and_rest.end(), {5.0f, 1000.0f / static_cast<float>(b.L)});
  Tensor softmax = b.ctx.to_device(maximum_and_rest.data(), DType::f32, {rows, 2});
  for (float memory : {0.0f, 0.98f}) {
    Tensor logits = b.rows(rows, shard.stride, [&](int64_t n) { return noise(n, memory); });
    const SelectRows input{logits.data<float>(), rows, shard.stride, &shard.all, shard.L};
    auto attention = [&](const CandidateLists* lists) {
      window_attention(b.ctx, heads, shard, logits.data<float>(), softmax.data<float>(), RowReduction::ema, 0.3,
                       a.data<float>(), lists);
    };
    const std::string kind = memory > 0.0f ? ", neighbours alike" : "";
    b.time("E2 attention" + kind, bytes, [&] { attention(nullptr); });
    for (int64_t k : {kBudget - kWindow, b.L / 16})
      b.time(fmt::format("E2 attention with top sets, k {}{}", k, kind), bytes,
             [&] { select_top_beside(b.ctx, *b.self, input, k, sums.data<int64_t>(), attention); });
  }
}

void bench_smoothing(Bench& b) {
  const SequencePartition partition(b.L, 1);
  const LocalShard shard = make_local_shard(partition, 0, kWindow);
  Tensor scores = b.rows(kHq, shard.P, [](int64_t n) { return noise(n, 0.0f); });
  Tensor pooled = b.ctx.empty(DType::f32, {kHq, shard.stride});
  Tensor sums = b.ctx.zeros(DType::i64, {kHq * kWindow});
  b.time("E4 adaptive windows", 0, [&] { adaptive_windows(b.ctx, sums, kWindow, kBudget - kWindow, 5, 200.0); });
  for (int64_t half : {2, 10, 100, 500, 2000}) {
    Tensor windows = equal_windows(b.ctx, kHq, {-half, half});
    for (PoolEdge edge : {PoolEdge::replicate, PoolEdge::lowest})
      b.time(fmt::format("E4 pooling, width {}{}", 2 * half + 1, edge == PoolEdge::lowest ? ", max" : ""),
             static_cast<double>(kHq * b.L) * 8,
             [&] { pool_scores(b.ctx, shard, scores.data<float>(), kHq, edge, windows, pooled.data<float>()); });
  }
}

void bench_cache(Bench& b) {
  Tensor k = b.ctx.zeros(DType::bf16, {b.L, kHkv * kD}), v = b.ctx.zeros(DType::bf16, {b.L, kHkv * kD});
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < b.L; ++i) positions.push_back(static_cast<int32_t>(i));
  Tensor where = b.ctx.to_device(positions.data(), DType::i32, {b.L});
  std::vector<std::vector<int32_t>> rows;
  std::vector<int64_t> heads;
  std::mt19937 random(2);
  for (int64_t h = 0; h < kHkv; ++h) {
    std::shuffle(positions.begin(), positions.end(), random);
    rows.emplace_back(positions.begin(), positions.begin() + kBudget);
    std::sort(rows.back().begin(), rows.back().end());
    heads.push_back(h);
  }
  const KeptRows kept = KeptRows::from_host(b.ctx, rows), all = KeptRows::everything(b.L, heads);
  KvCache cache(b.ctx, 1, kHkv, kD, DType::bf16);
  Tensor hash = b.ctx.zeros(DType::u64, {1}), counts = b.ctx.zeros(DType::i64, {kHkv});
  const double row_bytes = 2.0 * 2 * kD * 2 * kHkv;  // k and v, read and written
  b.time("E6 store of the kept rows", row_bytes * kBudget,
         [&] { cache.store(0, MatrixView(k), MatrixView(v), kHkv, heads, where, kept, 256); });
  b.time("E6 store of all rows", row_bytes * static_cast<double>(b.L),
         [&] { cache.store(0, MatrixView(k), MatrixView(v), kHkv, heads, where, all, 256); });
  b.time("account of the decision", 0,
         [&] { tally_kept(b.ctx, 0, kept, std::vector<bool>(kHkv, true), where, hash, counts); });
}

void bench_factors(Bench& b) {
  const int64_t hidden = 4096;
  Tensor wo = b.rows(hidden, kHq * kD, [](int64_t n) { return noise(n, 0.0f); });
  std::vector<bf16> half;
  for (float x : b.ctx.to_host<float>(wo)) half.push_back(to_bf16(x));
  Tensor wo_bf16 = b.ctx.to_device(half.data(), DType::bf16, {hidden, kHq * kD});
  b.time("output factors of a layer (f32)", 0, [&] { output_factors(b.ctx, MatrixView(wo), kHq, kD); });
  b.time("output factors of a layer (bf16)", 0, [&] { output_factors(b.ctx, MatrixView(wo_bf16), kHq, kD); });
}

// Everything between the keys of a layer and its cache.
void bench_layer(Bench& b) {
  const SequencePartition partition(b.L, 1);
  auto matrix = [&](int64_t rows, int64_t cols, float scale) {
    std::vector<bf16> base;
    for (float x : noise(1 << 22, 0.0f)) base.push_back(to_bf16(scale * x));
    Tensor from = b.ctx.to_device(base.data(), DType::bf16, {1 << 22});
    Tensor result = b.ctx.empty(DType::bf16, {rows, cols});
    // Pieces of another length than the source's, so that no two rows are equal.
    const int64_t piece = (1 << 22) - 4099 * 8;
    for (int64_t at = 0; at < result.numel(); at += piece)
      b.ctx.copy(result.data<bf16>() + at, from.data<bf16>() + at / piece % 4000 * 8,
                 std::min(piece, result.numel() - at) * 2);
    return result;
  };
  Tensor q = matrix(kWindow, kHq * kD, 1.0f), k = matrix(b.L, kHkv * kD, 1.0f), v = matrix(b.L, kHkv * kD, 1.0f);
  Tensor wo = matrix(4096, kHq * kD, 0.02f), r = output_factors(b.ctx, MatrixView(wo), kHq, kD);
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < b.L; ++i) positions.push_back(static_cast<int32_t>(i));
  Tensor where = b.ctx.to_device(positions.data(), DType::i32, {b.L});
  const LayerKv layer{0, &partition, MatrixView(q), MatrixView(k), MatrixView(v), r.data<float>()};
  const std::vector<int64_t> heads = {0, 1, 2, 3, 4, 5, 6, 7};
  CacheConfig config;
  config.budget.tokens = kBudget;
  config.window = kWindow;
  Evictor evictor(b.ctx, *b.self, *b.self, {kHq, kHkv, kD, {{0, kHq}, {0, kHkv}}}, config);
  KvCache cache(b.ctx, 1, kHkv, kD, DType::bf16);
  const int64_t before = b.ctx.memory().current();
  b.ctx.memory().reset_peak();
  b.time("a layer's eviction and store, restkv", 0, [&] {
    KeptRows kept = evictor.evict(layer);
    cache.store(0, MatrixView(k), MatrixView(v), kHkv, heads, where, kept, 256);
  });
  fmt::print("  at most {} MiB beside the inputs\n", (b.ctx.memory().peak() - before) >> 20);
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) {
  restkv::Bench b(argc > 1 ? std::atoll(argv[1]) : 131072);
  fmt::print("{}, L {}\n", b.ctx.gpu()->describe(), b.L);
  if (argc > 2) return restkv::bench_layer(b), 0;
  restkv::bench_select(b);
  restkv::bench_beside(b);
  restkv::bench_smoothing(b);
  restkv::bench_cache(b);
  restkv::bench_factors(b);
  restkv::bench_layer(b);
}
