// Microseconds of one layer's eviction on n GPU ranks, step by step and as a whole, at the shape of Llama-3.1-8B:
//   mpirun -np N evict_group_bench [L ...]     (default 131072 and 262144)
// Each line is the slowest rank's median; steps with an exchange contain the wait for the other ranks.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <random>

#include "dist/comm/mpi_runtime.h"
#include "dist/comm/nccl_communicator.h"
#include "kvcache/evict.h"
#include "kvcache/exchange_bytes.h"
#include "kvcache/output_factors.h"
#include "kvcache/reshard.h"
#include "kvcache/scores/drift.h"
#include "kvcache/scores/group_mean.h"
#include "kvcache/scores/pooling.h"
#include "kvcache/scores/reconstruction.h"
#include "kvcache/select/group_select.h"
#include "kvcache/statistics/exchange.h"
#include "kvcache/statistics/window_attention.h"
#include "kvcache/statistics/window_logits.h"
#include "kvcache/statistics/window_output.h"

namespace restkv {
namespace {

constexpr int64_t kHq = 32, kHkv = 8, kD = 128, kWindow = 32, kBudget = 1024, kPast = kBudget - kWindow;

struct Bench {
  Context& ctx;
  Communicator& group;    // of the GPUs
  Communicator& control;  // of the hosts
  int64_t L;
  SequencePartition partition{L, group.size()};
  LocalShard shard = make_local_shard(partition, group.rank(), kWindow);
  std::vector<int64_t> slot = block_slots(partition);
  HeadLayout heads{kHq, kHkv, kD, {{0, kHq}, {0, kHkv}}};
  Tensor sweep = ctx.empty(DType::u8, {int64_t{256} << 20});

  // Median device time of 21 runs; before each, other data goes through the L2 cache and the ranks meet.
  double time(const std::string& name, const std::function<void()>& body) {
    for (int i = 0; i < 3; ++i) body();
    std::vector<double> seconds;
    for (int i = 0; i < 21; ++i) {
      ctx.fill_zero(sweep.raw(), sweep.bytes());
      ctx.synchronize();
      control.barrier();
      auto from = ctx.gpu()->mark();
      body();
      auto to = ctx.gpu()->mark();
      seconds.push_back(ctx.gpu()->seconds_between(from.get(), to.get()));
    }
    std::sort(seconds.begin(), seconds.end());
    std::vector<double> median = {seconds[10]};
    control.all_reduce(std::span<double>(median), ReduceOp::max);
    if (group.rank() == 0) fmt::print("{:8d}  {:44s} {:9.1f} us\n", L, name, median[0] * 1e6);
    return median[0];
  }

  // The same random numbers wherever the rows lie: row i of the whole matrix has its own seed.
  Tensor matrix(int64_t rows, int64_t cols, float scale, int64_t first_seed) {
    std::mt19937 random(static_cast<uint32_t>(first_seed));
    std::normal_distribution<float> normal;
    constexpr int64_t kBase = int64_t{1} << 22;
    std::vector<bf16> base;
    for (int64_t i = 0; i < kBase; ++i) base.push_back(to_bf16(scale * normal(random)));
    Tensor from = ctx.to_device(base.data(), DType::bf16, {kBase});
    Tensor result = ctx.empty(DType::bf16, {rows, cols});
    const int64_t piece = kBase - 4099 * 8;  // of another length than the source: no two rows are equal
    for (int64_t at = 0; at < result.numel(); at += piece)
      ctx.copy(result.data<bf16>() + at, from.data<bf16>() + at / piece % 4000 * 8,
               std::min(piece, result.numel() - at) * 2);
    return result;
  }

  void run();
  void steps(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& r);
  void layer(const LayerKv& input, const Tensor& where);
};

void Bench::steps(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& r) {
  const int64_t rows = kHq * kWindow, blocks = static_cast<int64_t>(shard.blocks.size());
  Tensor logits = ctx.empty(DType::f32, {rows, shard.stride}), partials = ctx.empty(DType::f32, {blocks, rows * 2});
  Tensor softmax = ctx.empty(DType::f32, {rows, 2}), a = ctx.empty(DType::f32, {kHq, shard.stride});
  Tensor outputs = ctx.empty(DType::f32, {blocks, kHq * kD}), o = ctx.empty(DType::f32, {kHq, kD});
  Tensor s = ctx.empty(DType::f32, {kHq, shard.stride}), sums = ctx.empty(DType::i64, {rows}), all;
  Tensor pooled = ctx.empty(DType::f32, {kHq, shard.stride}), mean = ctx.empty(DType::f32, {kHkv, shard.stride});
  time("E1 logits", [&] {
    window_logits(ctx, heads, shard, MatrixView(q), MatrixView(k), logits.data<float>(), partials.data<float>());
  });
  time("E1 gather and fold", [&] {
    all = gather_blocks(ctx, group, partition, partials, rows * 2);
    fold_softmax(ctx, all.data<float>(), slot, rows, softmax.data<float>());
  });
  SelectRows input{logits.data<float>(), rows, shard.stride, &shard.all, shard.L};
  int64_t most_past = 0;
  for (int rank = 0; rank < group.size(); ++rank) {
    input.most_local = std::max(input.most_local, partition.local_size(rank));
    most_past = std::max(most_past, past_count_of(partition, rank, shard.P));
  }
  const auto attention = [&](const CandidateLists* lists) {
    window_attention(ctx, heads, shard, logits.data<float>(), softmax.data<float>(), RowReduction::ema, 0.3,
                     a.data<float>(), lists);
  };
  time("E2 attention alone", [&] { attention(nullptr); });
  if (group.size() == 1) {
    time("E2 attention with the top sets",
         [&] { select_top_beside(ctx, group, input, kPast, sums.data<int64_t>(), attention); });
  } else {
    time("E2 attention with the top sets, exchanged", [&] {
      GroupSelect begun = begin_group_select(ctx, group, input, kPast, /*beside=*/true, attention);
      finish_group_select(ctx, group, std::move(begun), sums.data<int64_t>());
    });
    GroupSelect listed = begin_group_select(ctx, group, input, kPast, /*beside=*/false, attention);
    time("   of it: gather of the lists",
         [&] { group.all_gather(listed.local.raw(), listed.gathered.raw(), listed.local.numel(), DType::u64); });
    time("   of it: cuts of the lists", [&] { finish_group_select(ctx, group, listed, sums.data<int64_t>()); });
  }
  time("E2 outputs",
       [&] { past_output_partials(ctx, heads, shard, a.data<float>(), MatrixView(v), outputs.data<float>()); });
  time("E2 gather and fold", [&] {
    all = gather_blocks(ctx, group, partition, outputs, kHq * kD);
    fold_outputs(ctx, all.data<float>(), slot, kHq, kD, o.data<float>());
  });
  time("E3 reconstruction", [&] {
    reconstruction_after(ctx, heads, shard, a.data<float>(), o.data<float>(), MatrixView(v), r.data<float>(), 1.0,
                         s.data<float>());
  });
  PastScores scores;
  for (const int64_t reach : {L, adaptive_reach(L, 5, 2000.0)})
    time(reach == L ? "(E4 gather of all scores)" : "E4 gather of the scores at the edges", [&] {
      scores =
          finish_gather_past(ctx, group, partition, shard, begin_gather_past(ctx, group, partition, shard, s, reach));
    });
  AdaptiveWindows windows;
  time("E4 windows and pooling", [&] {
    windows = adaptive_windows(ctx, sums, kWindow, kPast, 5, 2000.0);
    pool_scores(ctx, shard, scores, kHq, PoolEdge::replicate, windows.windows, pooled.data<float>());
  });
  std::vector<std::vector<const float*>> members(kHkv);
  for (int64_t h = 0; h < kHq; ++h) members[h * kHkv / kHq].push_back(pooled.data<float>() + h * shard.stride);
  const SelectRows past{mean.data<float>(), kHkv, shard.stride, &shard.past, shard.P, most_past};
  SelectResult top;
  time("E5 mean", [&] { group_mean(ctx, members, shard.L_lc, shard.stride, mean.data<float>()); });
  time("E5 cuts", [&] { top = select_top(ctx, group, past, kPast); });
  time("E6 index lists", [&] {
    top_set_rows(ctx, past, top.cut(), {shard.past_count(), shard.L_lc}, std::min(kBudget, shard.L_lc));
  });
}

void Bench::layer(const LayerKv& input, const Tensor& where) {
  CacheConfig config;
  config.budget.tokens = kBudget;
  config.window = kWindow;
  auto alone = make_self_communicator("tensor");
  Evictor evictor(ctx, group, *alone, heads, config);
  std::vector<int64_t> columns;
  std::vector<Range> share;
  for (int64_t h = 0; h < kHkv; ++h) columns.push_back(h);
  for (int rank = 0; rank < group.size(); ++rank) share.push_back(split_even(kHkv, group.size(), rank));
  KvCache whole(ctx, 1, kHkv, kD, DType::bf16), cache(ctx, 1, share[group.rank()].size(), kD, DType::bf16);
  KeptRows kept;
  const int64_t before = ctx.memory().current(), sent = group.stats().bytes_sent;
  ctx.memory().reset_peak();
  kept = evictor.evict(input);
  const int64_t bytes = group.stats().bytes_sent - sent;
  const double evict = time("the decision", [&] { kept = evictor.evict(input); });
  const double store =
      time("store where the rows lie", [&] { whole.store(0, input.k, input.v, kHkv, columns, where, kept, 256); });
  if (group.size() > 1)
    time("or move them to their heads' ranks", [&] {
      reshard_by_head(ctx, group, {input.k, input.v, kHkv, kD, columns, where, &kept, &partition}, share, cache, 0,
                      256);
    });
  const int64_t formula =
      eviction_exchange_bytes(config, heads, partition, group.rank(), 1, {Device::gpu, 0, 1}).sequence;
  if (group.rank() == 0)
    fmt::print(
        "{:8d}  decision and store {:.1f} us; {} bytes sent ({} by the formula); at most {} MiB beside the inputs\n", L,
        (evict + store) * 1e6, bytes, formula, (ctx.memory().peak() - before) >> 20);
}

void Bench::run() {
  if (group.rank() == 0) fmt::print("{} ranks, L {}\n", group.size(), L);
  Tensor q = matrix(kWindow, kHq * kD, 1.0f, 1), k = matrix(shard.L_lc, kHkv * kD, 1.0f, 10 + group.rank()),
         v = matrix(shard.L_lc, kHkv * kD, 1.0f, 100 + group.rank()), wo = matrix(4096, kHq * kD, 0.02f, 2);
  Tensor r = output_factors(ctx, MatrixView(wo), kHq, kD);
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < shard.L_lc; ++i)
    positions.push_back(static_cast<int32_t>(partition.global_position(group.rank(), i)));
  Tensor where = ctx.to_device(positions.data(), DType::i32, {shard.L_lc});
  layer({0, &partition, MatrixView(q), MatrixView(k), MatrixView(v), r.data<float>()}, where);
  steps(q, k, v, r);
}

int bench(int argc, char** argv) {
  MpiRuntime mpi(&argc, &argv);
  std::unique_ptr<Communicator> control = mpi.world(300.0);
  Context ctx(Context::Options{Device::gpu, 1, mpi.local_rank()});
  std::unique_ptr<Communicator> group = make_nccl_communicator(ctx, *control, {});
  std::vector<int64_t> lengths;
  for (int i = 1; i < argc; ++i) lengths.push_back(std::atoll(argv[i]));
  if (lengths.empty()) lengths = {131072, 262144};
  for (int64_t L : lengths) Bench{ctx, *group, *control, L}.run();
  return 0;
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) { return restkv::bench(argc, argv); }
