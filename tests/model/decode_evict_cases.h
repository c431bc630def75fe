// What eviction while decoding is tested with, on CPU and GPU ranks.
#pragma once

#include <string>
#include <vector>

#include "kvcache/config.h"
#include "kvcache/ladder.h"
#include "model/config.h"
#include "tests/model/run_model.h"

namespace restkv::testing {

inline CacheConfig decode_evict_cache(const std::string& policy, int64_t budget, int64_t every) {
  CacheConfig cache;
  cache.policy = policy;
  cache.budget.tokens = budget;
  cache.window = policy == "tova" || policy == "lacache" ? 1 : 16;
  cache.beta = 20.0;
  if (policy == "snapkv") cache.pooling = Pooling::average;
  cache.decode.every = every;
  return cache;
}

inline std::vector<CacheConfig> decode_evict_caches() {
  std::vector<CacheConfig> all;
  for (const char* policy : {"sliding_window", "streaming_llm", "lacache", "tova", "h2o"})
    all.push_back(decode_evict_cache(policy, 80, 1));
  all.push_back(decode_evict_cache("h2o", 60, 4));
  all.push_back(decode_evict_cache("key_norm", 80, 3));
  all.push_back(decode_evict_cache("random", 80, 5));
  all.push_back(decode_evict_cache("snapkv", 80, 8));
  all.push_back(decode_evict_cache("restkv", 80, 8));
  all.push_back(decode_evict_cache("restkv", 80, 10));
  all.back().granularity = Granularity::query_head;
  all.push_back(decode_evict_cache("h2o", 60, 2));
  all.back().granularity = Granularity::query_head;
  all.push_back(decode_evict_cache("h2o", 60, 2));
  all.back().allocation = Allocation::ada;
  all.push_back(decode_evict_cache("snapkv", 60, 7));
  all.back().allocation = Allocation::ada_pyramid;
  all.push_back(decode_evict_cache("tova", 60, 4));
  all.back().decode.trigger = 70;
  all.back().decode.target = 50;
  return all;
}

/// What LaCache with a budget of 80 keeps of a prompt of 300 tokens and 50 new ones, slot by slot.
inline KeptSet ladder_by_definition(const ModelConfig& config) {
  const LadderShape shape{config.layers, 80, 4, 1, config.layers / 2, 0, LadderOffsets::rotated};
  KeptSet want;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    Ladder ladder(shape);
    std::vector<int64_t> slots;
    for (int64_t p = 0; p < 350; ++p) {
      slots.push_back(p);
      if (p < 299) continue;
      const LadderCuts cuts = ladder.compact(static_cast<int64_t>(slots.size())).of_layer(shape, layer);
      std::vector<int64_t> left;
      for (size_t i = 0; i < slots.size(); ++i)
        if (cuts.place(static_cast<int64_t>(i)) >= 0) left.push_back(slots[i]);
      slots = left;
    }
    for (int64_t head = 0; head < config.Hkv; ++head)
      for (int64_t p : slots) want.insert({layer, head, p});
  }
  return want;
}

}  // namespace restkv::testing
