// Eviction while decoding in whole models on GPUs: what one GPU has to give, and what ranks have to give together,
// whatever moves the data between them.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/decode_batch_device.h"
#include "model/weights/random_source.h"
#include "tests/model/decode_evict_cases.h"
#include "tests/model/decode_ranks.h"
#include "tests/model/run_model.h"
#include "tests/model/small_models.h"
#include "tests/tolerances.h"

namespace restkv::testing {

inline std::string name_of_rule(const CacheConfig& cache) {
  return fmt::format("{}, every {}, {}, allocation {}, trigger {}, target {}", cache.policy, cache.decode.every,
                     cache.granularity == Granularity::query_head ? "query_head" : "kv_head",
                     static_cast<int>(cache.allocation), cache.decode.trigger, cache.decode.target);
}

/// Rows that no head may exceed after a token, where all heads have one budget.
inline int64_t bound_of(const CacheConfig& cache) {
  return std::max(cache.budget.tokens, cache.decode.trigger) + cache.decode.every - 1;
}

/// What a run of ranks differs in. Ranks that share one GPU exchange by collectives in mode sequence: a kernel that
/// waits for another rank would keep that rank's kernels from the GPU.
struct RanksForm {
  DecodeMode mode = DecodeMode::tensor;
  bool graphs = true;
  bool peer_memory = true;
};

inline std::unique_ptr<Transformer> make_evicting_model(Context& ctx, const ProcessGrid& grid,
                                                        const ModelConfig& config, const CacheConfig& cache,
                                                        const RanksForm& form = {}) {
  TransformerOptions options;
  options.decode = form.mode;
  options.peer_memory = form.peer_memory;
  return std::make_unique<Transformer>(ctx, grid, config, RandomSource(config, 17, 1.5), cache, options);
}

inline Sequence prefill_for(Transformer& model, int64_t L, uint64_t seed, int64_t new_tokens) {
  PrefillOptions options;
  options.max_new_tokens = new_tokens;
  return model.prefill(random_prompt(L, model.config().vocab, seed), options);
}

/// The host's account of lengths is the device's, and within the bound.
inline void expect_bounded(Context& ctx, const Sequence& s, const CacheConfig& cache, const std::string& what) {
  const int64_t heads = s.cache.heads();
  for (int64_t layer = 0; layer < s.cache.layers() && heads > 0; ++layer) {
    std::vector<int32_t> lengths(static_cast<size_t>(heads));
    ctx.to_host(s.cache.device_layer(layer).length, lengths.data(), heads * 4);
    for (int64_t h = 0; h < heads; ++h) {
      ASSERT_EQ(lengths[h], s.cache.length(layer, h)) << what << ", layer " << layer << ", head " << h;
      if (cache.allocation == Allocation::uniform) {
        ASSERT_LE(lengths[h], bound_of(cache)) << what << ", layer " << layer << ", head " << h;
      }
    }
  }
}

/// All ranks' rows of every head together: within the bound.
inline void expect_bounded(const KeptSet& kept, const CacheConfig& cache, const std::string& what) {
  if (cache.allocation != Allocation::uniform) return;
  std::map<std::pair<int64_t, int64_t>, int64_t> rows;
  for (const auto& [layer, head, position] : kept) ++rows[{layer, head}];
  for (const auto& [head, count] : rows)
    ASSERT_LE(count, bound_of(cache)) << what << ", layer " << head.first << ", head " << head.second;
}

struct EvictedText {
  std::vector<int32_t> text;
  std::vector<std::vector<float>> logits;  // of every tenth step
  KeptSet kept;
};

/// One sequence of L tokens and `steps` more, made up, on this grid; `text`: what the model would have said.
inline EvictedText run_evicting(Context& ctx, const ProcessGrid& grid, const ModelConfig& config,
                                const CacheConfig& cache, int64_t L, int steps, const RanksForm& form) {
  auto model = make_evicting_model(ctx, grid, config, cache, form);
  Sequence sequence = prefill_for(*model, L, 99, steps);
  EvictedText result;
  DeviceDecodeBatch batch(*model, {{&sequence, {}, 0}});
  const HeadRange& share = model->plan().decode.heads.local;
  const auto kept = [&] {
    sequence.cache.refresh_lengths();
    return gather_kept(grid.control(), sequence.cache,
                       cache.granularity == Granularity::query_head ? share.q.begin : share.kv.begin);
  };
  for (int i = 0; i < steps; ++i) {
    result.text.push_back(batch.tokens()[0]);
    // Not the sampled one: after two tokens that are as likely as each other texts, and all kept sets, would part.
    const auto token = static_cast<int32_t>(mix64(static_cast<uint64_t>(i) + 7) % static_cast<uint64_t>(config.vocab));
    form.graphs ? batch.step({&token, 1}) : batch.step_eagerly({&token, 1});
    if (i % 10 != 9) continue;
    result.logits.push_back(batch.logits(0));
    const std::string what = fmt::format("{}, token {}", name_of_rule(cache), i);
    if (form.mode == DecodeMode::tensor)
      expect_bounded(ctx, sequence, cache, what);
    else
      expect_bounded(kept(), cache, what);
  }
  result.kept = kept();
  return result;
}

/// On every rank of a grid: the rows that one rank keeps. Another order of sums in the layers (tensor ranks, other
/// shapes of products) changes queries and keys in their last bits, so rows chosen by scores may differ in a few; what
/// goes by positions may not.
inline void expect_eviction_of_one_rank(Context& ctx, const ProcessGrid& grid, const ModelConfig& config,
                                        const RanksForm& form, const std::vector<CacheConfig>& caches) {
  ProcessGrid alone(make_self_communicator(), 1, 1);
  RanksForm of_one = form;
  of_one.mode = DecodeMode::tensor;
  for (int64_t L : {300, 40})  // evicted, and shorter than the budget
    for (const CacheConfig& cache : caches) {
      const std::string name =
          fmt::format("{}, prompt {}, layout {}x{}, mode {}", name_of_rule(cache), L, grid.sequence_size(),
                      grid.tensor_size(), form.mode == DecodeMode::tensor ? "tensor" : "sequence");
      SCOPED_TRACE(name);
      const EvictedText want = run_evicting(ctx, alone, config, cache, L, 60, of_one),
                        got = run_evicting(ctx, grid, config, cache, L, 60, form);
      int64_t low = 0, high = 0;
      for (int32_t token : got.text) low = high = static_cast<int64_t>(mix64(static_cast<uint64_t>(low ^ token)) >> 1);
      grid.control().all_reduce(&low, 1, DType::i64, ReduceOp::min);
      grid.control().all_reduce(&high, 1, DType::i64, ReduceOp::max);
      EXPECT_EQ(low, high) << "ranks have different texts";
      EXPECT_EQ(got.kept.size(), want.kept.size());
      const bool by_position = cache.policy == "sliding_window" || cache.policy == "streaming_llm" ||
                               cache.policy == "lacache" || cache.policy == "random";
      const double index = jaccard(got.kept, want.kept);
      if (grid.is_root())
        printf("%s: Jaccard index %.4f, texts %s\n", name.c_str(), index, got.text == want.text ? "equal" : "differ");
      if (by_position) {
        EXPECT_EQ(got.kept, want.kept);
        double sum = 0.0;
        for (size_t i = 0; i < want.logits.size(); ++i) {
          const double difference = logits_difference(got.logits[i], want.logits[i]);
          EXPECT_LT(difference, kLogitsBf16Row) << "token " << 10 * i + 9;
          sum += difference;
        }
        EXPECT_LT(sum, kLogitsBf16 * static_cast<double>(want.logits.size()));
      }
      EXPECT_GE(index, kJaccardBf16Repeated);
    }
}

/// Three members of several lengths, one of which leaves: graphs give the bits of single launches, and what is kept.
inline void expect_graphs_like_single_launches(Context& ctx, const ProcessGrid& grid, const ModelConfig& config,
                                               const CacheConfig& cache, const RanksForm& form) {
  SCOPED_TRACE(fmt::format("{}, {}x{}, mode {}", name_of_rule(cache), grid.sequence_size(), grid.tensor_size(),
                           static_cast<int>(form.mode)));
  auto model = make_evicting_model(ctx, grid, config, cache, form);
  std::vector<Sequence> a, b;
  for (int64_t i = 0; i < 3; ++i) {
    a.push_back(prefill_for(*model, 40 + 150 * i, static_cast<uint64_t>(i), 8));  // storage grows and moves
    b.push_back(a.back().clone());
  }
  std::vector<DecodeBatch::Member> in_a, in_b;
  for (uint64_t i = 0; i < 3; ++i) {
    in_a.push_back({&a[i], {}, i});
    in_b.push_back({&b[i], {}, i});
  }
  DeviceDecodeBatch eager(*model, in_a), graph(*model, in_b);
  for (int step = 0; step < 60; ++step) {
    std::vector<int32_t> tokens(eager.tokens().begin(), eager.tokens().end());
    ASSERT_EQ(std::vector<int32_t>(graph.tokens().begin(), graph.tokens().end()), tokens) << "step " << step;
    if (step == 40) {
      eager.leave(1);
      graph.leave(1);
      tokens.erase(tokens.begin() + 1);
    }
    eager.step_eagerly(tokens);
    graph.step(tokens);
    for (int64_t i = 0; i < eager.size(); ++i)
      ASSERT_EQ(graph.logits(i), eager.logits(i)) << "step " << step << ", member " << i;
  }
  for (size_t i = 0; i < a.size(); ++i) {
    a[i].cache.refresh_lengths();
    b[i].cache.refresh_lengths();
    for (int64_t layer = 0; layer < config.layers; ++layer)
      for (int64_t h = 0; h < a[i].cache.heads(); ++h)
        ASSERT_EQ(b[i].cache.positions(layer, h), a[i].cache.positions(layer, h)) << "member " << i;
  }
}

/// 4,000 tokens at a budget of 256: all ranks together never have more rows than the bound, and memory stays.
inline void expect_long_generation_within_bound(Context& ctx, const ProcessGrid& grid, const ModelConfig& config,
                                                const CacheConfig& cache, const RanksForm& form) {
  SCOPED_TRACE(fmt::format("{}, {}x{}", name_of_rule(cache), grid.sequence_size(), grid.tensor_size()));
  auto model = make_evicting_model(ctx, grid, config, cache, form);
  Sequence sequence = prefill_for(*model, 300, 1, 4000);
  DeviceDecodeBatch batch(*model, {{&sequence, {}, 0}});
  int64_t memory = 0, capacity = 0;
  for (int step = 0; step < 4000; ++step) {
    const std::vector<int32_t> tokens(batch.tokens().begin(), batch.tokens().end());
    batch.step(tokens);
    if (step == 500) {
      ctx.synchronize();
      memory = ctx.memory().current(), capacity = sequence.cache.capacity_bytes();
    }
    if (step % 100 != 99) continue;
    sequence.cache.refresh_lengths();
    std::vector<int64_t> rows;  // of all sequence ranks, of this rank's heads
    const int64_t heads = sequence.cache.heads(), all = config.layers * heads * grid.tensor_size();
    rows.assign(static_cast<size_t>(all), 0);
    for (int64_t layer = 0; layer < config.layers; ++layer)
      for (int64_t h = 0; h < heads; ++h)
        rows[static_cast<size_t>((layer * grid.tensor_size() + grid.tensor_rank()) * heads + h)] =
            sequence.cache.length(layer, h);
    grid.control().all_reduce(std::span<int64_t>(rows));
    for (int64_t n : rows) ASSERT_LE(n, bound_of(cache)) << "step " << step;
  }
  EXPECT_EQ(ctx.memory().current(), memory);
  EXPECT_EQ(sequence.cache.capacity_bytes(), capacity);
  const int64_t row = 2 * config.d * 2,
                new_rows = (cache.decode.every + grid.sequence_size() - 1) / grid.sequence_size();
  // The ladder may leave fewer rows than its budget, and has room for it twice.
  EXPECT_LE(capacity, config.layers * sequence.cache.heads() * row * (cache.policy == "lacache" ? 2 : 1) *
                          (cache.budget.tokens + new_rows + 1));
}

}  // namespace restkv::testing
