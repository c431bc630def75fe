// Eviction while decoding in whole models on GPUs: what one GPU has to give, and what ranks have to give together,
// whatever moves the data between them.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/decode_batch_device.h"
#include "model/weights/random_source.h"
#include "tests/model/decode_evict_cases.h"
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

inline std::unique_ptr<Transformer> make_evicting_model(Context& ctx, const ProcessGrid& grid,
                                                        const ModelConfig& config, const CacheConfig& cache) {
  TransformerOptions options;
  options.decode = DecodeMode::tensor;
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

struct EvictedText {
  std::vector<int32_t> text;
  KeptSet kept;
};

/// One sequence of L tokens and `steps` more, made up, on this grid; `text`: what the model would have said.
inline EvictedText run_evicting(Context& ctx, const ProcessGrid& grid, const ModelConfig& config,
                                const CacheConfig& cache, int64_t L, int steps, bool graphs) {
  auto model = make_evicting_model(ctx, grid, config, cache);
  Sequence sequence = prefill_for(*model, L, 99, steps);
  EvictedText result;
  DeviceDecodeBatch batch(*model, {{&sequence, {}, 0}});
  for (int i = 0; i < steps; ++i) {
    result.text.push_back(batch.tokens()[0]);
    // Not the sampled one: after two tokens that are as likely as each other texts, and all kept sets, would part.
    const auto token = static_cast<int32_t>(mix64(static_cast<uint64_t>(i) + 7) % static_cast<uint64_t>(config.vocab));
    graphs ? batch.step({&token, 1}) : batch.step_eagerly({&token, 1});
    if (i % 10 == 9) expect_bounded(ctx, sequence, cache, fmt::format("{}, token {}", name_of_rule(cache), i));
  }
  const HeadRange& share = model->plan().decode.heads.local;
  result.kept = gather_kept(grid.control(), sequence.cache,
                            cache.granularity == Granularity::query_head ? share.q.begin : share.kv.begin);
  return result;
}

/// On every rank of a grid: the rows that one rank keeps. Another order of sums in the layers (tensor ranks, other
/// shapes of products) changes queries and keys in their last bits, so rows chosen by scores may differ in a few; what
/// goes by positions may not.
inline void expect_eviction_of_one_rank(Context& ctx, const ProcessGrid& grid, const ModelConfig& config, bool graphs) {
  ProcessGrid alone(make_self_communicator(), 1, 1);
  for (int64_t L : {300, 40})  // evicted, and shorter than the budget
    for (const CacheConfig& cache : decode_evict_caches()) {
      const std::string name =
          fmt::format("{}, prompt {}, layout {}x{}", name_of_rule(cache), L, grid.sequence_size(), grid.tensor_size());
      SCOPED_TRACE(name);
      const EvictedText want = run_evicting(ctx, alone, config, cache, L, 60, graphs),
                        got = run_evicting(ctx, grid, config, cache, L, 60, graphs);
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
      }
      EXPECT_GE(index, kJaccardBf16Repeated);
    }
}

}  // namespace restkv::testing
