// What the prefill on several ranks has to give, whatever moves the data between them: run by every rank of a program
// of threads (prefill_loopback_gpu_test.cc) or of mpirun (prefill_nccl_test.cc).
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/checkpoint.h"
#include "model/weights/random_source.h"
#include "tests/model/exchange_formula.h"
#include "tests/model/run_model.h"
#include "tests/model/small_models.h"
#include "tests/read_safetensors.h"
#include "tests/tolerances.h"

namespace restkv::testing {

/// One rank, and how it makes a grid of all of them. Host memory goes through the grid's control group.
struct PrefillRank {
  Context& ctx;
  std::function<std::shared_ptr<ProcessGrid>(int sequence, int tensor)> make_grid;
};

inline PrefillRank lone_rank(Context& ctx) {
  return {ctx, [](int, int) { return std::make_shared<ProcessGrid>(make_self_communicator(), 1, 1); }};
}

struct PrefillSetting {
  ModelConfig config;
  CacheConfig cache;
  int64_t L = 0;
  int sequence = 1, tensor = 1;
  ContextPlan plan = ContextPlan::allgather;
  DecodeMode mode = DecodeMode::sequence;
  std::optional<DType> sum_dtype = std::nullopt;
  int64_t chunk = 0;
  bool host_residual = false;

  std::string name() const {
    return fmt::format(
        "{} heads, {} KV heads of {}, policy {}, {} tokens, layout {}x{}, {}, decode {}{}", config.Hq, config.Hkv,
        config.d, cache.policy, L, sequence, tensor, name_of(plan), mode == DecodeMode::tensor ? "tensor" : "sequence",
        chunk > 0 ? fmt::format(", chunks of {}{}", chunk, host_residual ? ", residual stream on host" : "") : "");
  }
};

struct PrefillOutcome {
  std::vector<std::vector<float>> rows;  // logits of some rows, the last one last
  KeptSet kept;
  PrefillReport report;
  int64_t peak = 0;  // bytes of the first prefill, beyond the weights
};

/// Two prefills of one model, which have to give the same bits; collective over the ranks.
inline PrefillOutcome run_prefill(PrefillRank& rank, const PrefillSetting& s) {
  auto grid = rank.make_grid(s.sequence, s.tensor);
  const Device device = rank.ctx.device();
  // A large gain keeps attention from being flat, so that what is evicted matters.
  Transformer model(rank.ctx, *grid, s.config, RandomSource(s.config, 17, 1.5), s.cache,
                    {.decode = s.mode, .context = s.plan, .sum_dtype = s.sum_dtype});
  const auto tokens = random_prompt(s.L, s.config.vocab, 7);
  PrefillOutcome outcome;
  PrefillOptions options, again;
  options.chunk = again.chunk = s.chunk;
  options.host_residual = again.host_residual = s.host_residual;
  for (int64_t i = 0; i < 16; ++i)
    if (const int64_t row = i * s.L / 16; options.logit_rows.empty() || row > options.logit_rows.back())
      options.logit_rows.push_back(row);
  options.on_logits = [&](int64_t, std::span<const float> logits) {
    outcome.rows.emplace_back(logits.begin(), logits.end());
  };
  const int64_t before = rank.ctx.memory().current();
  rank.ctx.memory().reset_peak();
  Sequence first = model.prefill(tokens, options);
  outcome.peak = rank.ctx.memory().peak() - before;
  outcome.rows.push_back(first.logits);
  outcome.report = first.report;
  EXPECT_EQ(first.report.exchange_bytes,
            exchange_bytes_by_formula(*grid, s.config, s.L, s.plan, device,
                                      s.sum_dtype.value_or(prefill_sum_dtype(device)), s.chunk))
      << s.name() << ", rank " << grid->rank();
  const Shard& share = model.plan().decode;
  const bool per_query = s.cache.granularity == Granularity::query_head;
  const HeadRange& heads = share.heads.local;
  outcome.kept = gather_kept(grid->control(), first.cache, per_query ? heads.q.begin : heads.kv.begin);
  Sequence second = model.prefill(tokens, again);
  EXPECT_EQ(second.logits, first.logits) << s.name() << ", rank " << grid->rank() << ": not the same bits again";
  EXPECT_EQ(second.report.kept_hash, first.report.kept_hash) << s.name() << ": not the same rows kept again";
  return outcome;
}

/// Largest difference over the largest magnitude.
inline double row_difference(const std::vector<float>& got, const std::vector<float>& want) {
  double scale = 0.0, worst = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (i >= got.size() || !std::isfinite(got[i])) return INFINITY;
    scale = std::max(scale, std::abs(static_cast<double>(want[i])));
    worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]));
  }
  return worst / scale;
}

/// Equal bits where one row is computed in one way (all-gather over sequence ranks alone), else within the tolerances
/// of bf16. `speaks`: print what was found.
inline void expect_agreement(const PrefillSetting& s, const PrefillOutcome& got, const PrefillOutcome& want,
                             bool speaks) {
  ASSERT_EQ(got.rows.size(), want.rows.size()) << s.name();
  double sum = 0.0, worst = 0.0;
  size_t other_bits = 0;
  for (size_t i = 0; i < want.rows.size(); ++i) {
    const double row = row_difference(got.rows[i], want.rows[i]);
    sum += row;
    worst = std::max(worst, row);
    other_bits += got.rows[i] != want.rows[i] ? 1 : 0;
  }
  const double mean = sum / static_cast<double>(want.rows.size()), index = jaccard(got.kept, want.kept);
  const std::string found = fmt::format(
      "{}: logits differ by {:.5f} on average, {:.5f} at most; {} of {} rows have other bits; Jaccard "
      "index of the kept sets {:.4f}",
      s.name(), mean, worst, other_bits, want.rows.size(), index);
  if (speaks) printf("%s\n", found.c_str());
  EXPECT_EQ(got.report.kept_counts, want.report.kept_counts) << found;
  // Of products with fewer rows than a tile, as chunks of short prompts have, GPUs promise no bits (gemm.h), and of
  // attention in calls of other sizes neither.
  const bool whole_tiles = s.L >= 1000 && s.chunk == 0;
  if (whole_tiles && s.tensor == 1 && (s.sequence == 1 || s.plan == ContextPlan::allgather)) {
    EXPECT_EQ(other_bits, 0u) << found;
    EXPECT_EQ(got.kept, want.kept) << found;
    EXPECT_EQ(got.report.kept_hash, want.report.kept_hash) << found;
  }
  EXPECT_LT(mean, kLogitsBf16) << found;
  EXPECT_LT(worst, kLogitsBf16Row) << found;
  EXPECT_GE(index, kJaccardBf16Random) << found;
}

/// The checkpoints that Hugging Face transformers wrote, with its f32 logits.
inline void expect_golden_logits(PrefillRank& rank, int sequence, int tensor, ContextPlan plan, DType sum_dtype,
                                 bool speaks) {
  for (const char* name : {"llama2", "llama3"}) {
    const std::string directory = std::string(RESTKV_TEST_DATA) + "/models/" + name;
    GoldenFile golden = read_golden(directory + "/golden.safetensors");
    Checkpoint checkpoint = open_checkpoint(directory);
    if (!layout_allowed(checkpoint.config, tensor)) continue;
    auto grid = rank.make_grid(sequence, tensor);
    CacheConfig cache;
    cache.policy = "full";
    Transformer model(rank.ctx, *grid, checkpoint.config, *checkpoint.weights, cache,
                      {.decode = DecodeMode::sequence, .context = plan, .sum_dtype = sum_dtype});
    const int64_t vocab = model.config().vocab;
    double sum = 0.0, worst = 0.0;
    int count = 0;
    for (int n : {1, 17, 300, 2000}) {
      const std::string suffix = fmt::format("_{}", n);
      const auto& rows = golden.at("rows" + suffix).i32;
      const auto& want = golden.at("logits" + suffix).f32;
      PrefillOptions options;
      options.logit_rows.assign(rows.begin(), rows.end());
      options.on_logits = [&, row = int64_t{0}](int64_t, std::span<const float> logits) mutable {
        const double difference = row_difference({logits.begin(), logits.end()},
                                                 {want.begin() + row * vocab, want.begin() + (row + 1) * vocab});
        sum += difference;
        worst = std::max(worst, difference);
        ++count, ++row;
      };
      model.prefill(golden.at("ids" + suffix).i32, options);
    }
    const std::string found =
        fmt::format("{}, layout {}x{}, {}, sums in {}: {} rows, {:.4f} on average, {:.4f} at most", name, sequence,
                    tensor, name_of(plan), name_of(sum_dtype), count, sum / count, worst);
    if (speaks) printf("golden logits, %s\n", found.c_str());
    EXPECT_GT(count, 0);
    EXPECT_LT(sum / count, kLogitsBf16) << found;
    EXPECT_LT(worst, kLogitsBf16Row) << found;
  }
}

inline CacheConfig prefill_cache(const std::string& policy, int64_t budget = 300) {
  CacheConfig cache;
  cache.policy = policy;
  if (policy == "full") return cache;
  cache.budget.tokens = budget;
  cache.window = 16;
  cache.beta = 100.0;
  if (policy != "restkv") cache.pooling = Pooling::max;
  return cache;
}

/// Everything that one layout is tested with; the rank's own context also computes what one rank gives.
inline std::vector<PrefillSetting> prefill_settings(int sequence, int tensor) {
  std::vector<PrefillSetting> settings;
  auto add = [&](const ModelConfig& config, const std::string& policy, int64_t L, ContextPlan plan, DecodeMode mode) {
    settings.push_back({config, prefill_cache(policy), L, sequence, tensor, plan, mode});
  };
  const ModelConfig wide = small_config(8, 2, 128), odd = small_config(12, 4, 64);
  // Chunks without rows and of one row; uneven blocks; blocks of 1024, several slices and several calls a chunk.
  for (ContextPlan plan : {ContextPlan::allgather, ContextPlan::ring}) {
    if (plan == ContextPlan::ring && sequence == 1) continue;
    for (int64_t L : {129, 3000}) add(odd, "full", L, plan, DecodeMode::sequence);
    add(wide, "full", 40000, plan, DecodeMode::sequence);
    add(wide, "restkv", 3000, plan, DecodeMode::sequence);
  }
  add(odd, "snapkv", 40000, ContextPlan::allgather, DecodeMode::sequence);
  add(odd, "restkv", 3000, ContextPlan::allgather, DecodeMode::tensor);
  return settings;
}

/// On every rank of a grid of sequence x tensor. CPU ranks leave out long prompts and shorten the others.
inline void expect_prefill_like_one_rank(PrefillRank& rank, int sequence, int tensor, const std::string& policy) {
  for (PrefillSetting s : prefill_settings(sequence, tensor)) {
    if ((s.cache.policy == "full") != (policy == "full") || !layout_allowed(s.config, tensor)) continue;
    if (rank.ctx.device() == Device::cpu && s.L > 3000) continue;
    if (rank.ctx.device() == Device::cpu) s.L = std::min<int64_t>(s.L, 1100);
    const bool speaks = rank.make_grid(sequence, tensor)->is_root();
    const PrefillOutcome got = run_prefill(rank, s);
    PrefillSetting alone = s;
    alone.sequence = alone.tensor = 1;
    PrefillRank one = lone_rank(rank.ctx);
    expect_agreement(s, got, run_prefill(one, alone), speaks);
  }
}

/// Prefills in chunks against the whole prompt at once, both on a grid of sequence x tensor.
inline void expect_chunks_like_the_whole(PrefillRank& rank, int sequence, int tensor) {
  const ModelConfig wide = small_config(8, 2, 128), odd = small_config(12, 4, 64);
  const bool speaks = rank.make_grid(sequence, tensor)->is_root();
  for (const auto& [config, policy, L, chunk] : {std::tuple{odd, "full", int64_t{129}, int64_t{128}},
                                                 {wide, "full", 40000, 4096},
                                                 {odd, "restkv", 3000, 128},
                                                 {wide, "restkv", 40000, 4096},
                                                 {wide, "snapkv", 3000, 1024},
                                                 {odd, "h2o", 3000, 256},
                                                 {wide, "h2o", 40000, 4096},
                                                 {wide, "streaming_llm", 3000, 384}}) {
    if (!layout_allowed(config, tensor)) continue;
    PrefillSetting whole{config, prefill_cache(policy), L, sequence, tensor};
    if (std::string_view(policy) == "h2o" || std::string_view(policy) == "streaming_llm")
      whole.cache.pooling = Pooling::none;
    PrefillSetting chunked = whole;
    chunked.chunk = chunk;
    const PrefillOutcome want = run_prefill(rank, whole), got = run_prefill(rank, chunked);
    expect_agreement(chunked, got, want, speaks);
    // Where the rows lie changes nothing at all.
    chunked.host_residual = true;
    const PrefillOutcome on_host = run_prefill(rank, chunked);
    EXPECT_EQ(on_host.rows, got.rows) << chunked.name();
    EXPECT_EQ(on_host.kept, got.kept) << chunked.name();
    if (std::string_view(policy) == "streaming_llm") {
      EXPECT_EQ(got.kept, want.kept) << chunked.name();
    }
    if (L >= 3000) {
      EXPECT_LT(got.peak, want.peak) << chunked.name();
      if (rank.ctx.device() == Device::gpu) {
        EXPECT_LT(on_host.peak, got.peak) << chunked.name();
      }
    }
    if (speaks)
      printf("  peak %.1f MB, at once %.1f MB, with the residual stream on the host %.1f MB\n", 1e-6 * double(got.peak),
             1e-6 * double(want.peak), 1e-6 * double(on_host.peak));
  }
}

}  // namespace restkv::testing
