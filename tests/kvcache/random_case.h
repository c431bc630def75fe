// Seeded eviction cases, the awkward ones included.
#pragma once

#include <cmath>
#include <random>

#include "kvcache/policies/policy.h"
#include "tests/kvcache/eviction_case.h"

namespace restkv::testing {

/// What stands in K and V.
enum class Content {
  normal,     ///< independent normal values; the window's queries drift along the positions
  constant,   ///< all keys equal and all values equal: every score is a tie
  spike,      ///< one past position takes nearly all attention
  underflow,  ///< logits so far apart that most attention weights are exactly zero
  periodic,   ///< keys and values repeat every 7 positions: many exact ties, also across shards
  minus_inf,  ///< every second key overflows to a logit of -inf
};

struct CaseShape {
  int64_t L, W, B, Hq, Hkv, d;
  int64_t block_size = 0;
  Content content = Content::normal;
};

inline void fill_content(EvictionCase& c, Content content, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const int64_t d = c.d, W = c.config.window;
  for (int64_t g = 0; g < c.Hkv; ++g)
    for (int64_t i = 0; i < c.L; ++i) {
      float* k = &c.k[(g * c.L + i) * d];
      float* v = &c.v[(g * c.L + i) * d];
      for (int64_t j = 0; j < d; ++j) k[j] = normal(random), v[j] = normal(random);
      // A slow wave along the positions, so that what the window looks at moves with its rows.
      k[0] = 4.0f * std::sin(6.2831853f * static_cast<float>(i) / static_cast<float>(c.L));
      k[1] = 4.0f * std::cos(6.2831853f * static_cast<float>(i) / static_cast<float>(c.L));
      if (content == Content::constant) std::fill_n(k, d, 0.5f), std::fill_n(v, d, 0.25f);
      if (content == Content::periodic && i >= 7) {
        std::copy_n(k - 7 * d, d, k);
        std::copy_n(v - 7 * d, d, v);
      }
      if (content == Content::underflow)
        for (int64_t j = 0; j < d; ++j) k[j] *= 1000.0f;
      if (content == Content::minus_inf && i % 2 == 1) std::fill_n(k, d, -3e38f);
    }
  for (int64_t h = 0; h < c.Hq; ++h)
    for (int64_t w = 0; w < W; ++w) {
      float* q = &c.q[(h * W + w) * d];
      for (int64_t j = 0; j < d; ++j) q[j] = normal(random);
      const float angle = 0.5f * static_cast<float>(h) + 2.0f * static_cast<float>(w) / static_cast<float>(W);
      q[0] = 3.0f * std::sin(angle);
      q[1] = 3.0f * std::cos(angle);
      if (content == Content::minus_inf) std::fill_n(q, d, 2.0f + static_cast<float>(w));
    }
  if (content == Content::spike)
    for (int64_t g = 0; g < c.Hkv; ++g) {
      float* k = &c.k[(g * c.L + c.P() / 3) * d];
      for (int64_t j = 0; j < d; ++j) {
        k[j] = 0.0f;
        for (int64_t w = 0; w < W; ++w) k[j] += 40.0f * c.q[(g * (c.Hq / c.Hkv) * W + w) * d + j];
      }
    }
}

/// Queries of the whole prompt for policies that read them, and the log-sum-exp of every row.
inline void fill_prompt_queries(EvictionCase& c, Content content, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const int64_t d = c.d;
  c.q_all.resize(static_cast<size_t>(c.Hq * c.L * d));
  for (float& x : c.q_all) x = content == Content::minus_inf ? 1.0f : normal(random);
  if (content == Content::periodic)
    for (int64_t i = 7 * d; i < static_cast<int64_t>(c.q_all.size()); ++i) c.q_all[i] = c.q_all[i - 7 * d];
  for (int64_t h = 0; h < c.Hq; ++h)
    for (int64_t i = 0; i < c.L; ++i) {
      const float* q = &c.q_all[(h * c.L + i) * d];
      std::vector<double> row;
      for (int64_t j = 0; j <= i; ++j) {
        const float* k = &c.k[(h / (c.Hq / c.Hkv) * c.L + j) * d];
        double dot = 0.0;
        for (int64_t x = 0; x < d; ++x) dot += static_cast<double>(q[x]) * static_cast<double>(k[x]);
        row.push_back(dot / std::sqrt(static_cast<double>(d)));
      }
      const double max = *std::max_element(row.begin(), row.end());
      double sum = 0.0;
      for (double x : row) sum += std::exp(x - max);
      c.lse.push_back(static_cast<float>(max + std::log(sum)));
    }
}

inline EvictionCase random_case(const std::string& name, const CaseShape& s, CacheConfig config, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  EvictionCase c;
  c.name = name;
  c.L = s.L, c.Hq = s.Hq, c.Hkv = s.Hkv, c.d = s.d, c.block_size = s.block_size;
  c.layer = seed % 5, c.layers = 5;
  config.window = s.W;
  config.budget.tokens = s.B;
  config.sinks = std::min(config.sinks, s.B - s.W);
  c.config = config;
  c.q.resize(static_cast<size_t>(s.Hq * s.W * s.d));
  c.k.resize(static_cast<size_t>(s.Hkv * s.L * s.d));
  c.v.resize(c.k.size());
  fill_content(c, s.content, random);
  if (config.policy == "h2o") fill_prompt_queries(c, s.content, random);
  if (config.policy == "restkv" && config.use_wo && config.reconstruction) {
    c.wo.resize(static_cast<size_t>((s.Hq * s.d + 3) * s.Hq * s.d));
    for (float& x : c.wo) x = 0.1f * normal(random);
  }
  return c;
}

inline CacheConfig restkv_config(ScoreMode mode, Pooling pooling, bool use_wo, Granularity granularity) {
  CacheConfig config;
  config.mode = mode;
  config.pooling = pooling;
  config.use_wo = use_wo;
  config.granularity = granularity;
  config.beta = 37.0;
  return config;
}

/// All policies, modes, poolings and granularities.
inline std::vector<CacheConfig> case_configs() {
  using enum Granularity;
  std::vector<CacheConfig> all = {
      restkv_config(ScoreMode::after, Pooling::adaptive, true, kv_head),
      restkv_config(ScoreMode::before, Pooling::adaptive, true, query_head),
      restkv_config(ScoreMode::after, Pooling::none, false, query_head),
      restkv_config(ScoreMode::before, Pooling::max, false, kv_head),
      restkv_config(ScoreMode::after, Pooling::average, true, query_head),
  };
  all[2].tau = 0.5;
  all[3].normalize = true;
  all[3].temporal = TemporalSmoothing::mean;
  CacheConfig inverse = restkv_config(ScoreMode::after, Pooling::adaptive, true, kv_head);
  inverse.temporal = TemporalSmoothing::inverse_ema;
  CacheConfig last = restkv_config(ScoreMode::after, Pooling::max, false, query_head);
  last.temporal = TemporalSmoothing::last;
  CacheConfig weights = restkv_config(ScoreMode::after, Pooling::adaptive, true, kv_head);
  weights.reconstruction = false;
  CacheConfig pyramid = restkv_config(ScoreMode::after, Pooling::adaptive, false, query_head);
  pyramid.allocation = Allocation::pyramid;
  CacheConfig ada = restkv_config(ScoreMode::after, Pooling::max, false, kv_head);
  ada.allocation = Allocation::ada;
  CacheConfig ada_pyramid = restkv_config(ScoreMode::after, Pooling::none, false, query_head);
  ada_pyramid.policy = "snapkv";
  ada_pyramid.allocation = Allocation::ada_pyramid;
  ada_pyramid.ada_floor = 0.35;
  CacheConfig ada_keys;
  ada_keys.policy = "key_norm";
  ada_keys.granularity = query_head;
  ada_keys.allocation = Allocation::ada;
  ada_keys.ada_floor = 0.0;
  all.insert(all.end(), {inverse, last, weights, pyramid, ada, ada_pyramid, ada_keys});
  for (Granularity granularity : {kv_head, query_head}) {
    for (const char* policy : {"sliding_window", "streaming_llm", "tova", "key_norm"}) {
      all.emplace_back();
      all.back().policy = policy;
      all.back().granularity = granularity;
    }
    CacheConfig random, snapkv;
    random.policy = "random";
    random.seed = 7;
    snapkv.policy = "snapkv";
    snapkv.pooling = granularity == kv_head ? Pooling::max : Pooling::average;
    random.granularity = snapkv.granularity = granularity;
    all.push_back(random);
    all.push_back(snapkv);
  }
  return all;
}

/// For shapes whose budget leaves room for a ladder: ladder_fits().
inline std::vector<CacheConfig> lacache_configs() {
  std::vector<CacheConfig> all(3);
  for (CacheConfig& config : all) config.policy = "lacache";
  all[1].ladder_span = 2;
  all[1].ladder_overlap = 1;
  all[1].ladder_offsets = LadderOffsets::contiguous;
  all[2].granularity = Granularity::query_head;
  all[2].ladder_span = 1;
  return all;
}

/// They need the queries of the whole prompt: random_case() makes them.
inline std::vector<CacheConfig> h2o_configs() {
  std::vector<CacheConfig> all(3);
  for (CacheConfig& config : all) config.policy = "h2o";
  all[1].granularity = Granularity::query_head;
  all[2].allocation = Allocation::ada;
  return all;
}

inline bool ladder_fits(const EvictionCase& c) {
  return c.config.budget.tokens >= ladder_shape(c.config, c.layers, c.config.budget.tokens).least_capacity();
}

/// L, W, B, Hq, Hkv, d, block size, content
inline std::vector<std::pair<std::string, CaseShape>> case_shapes() {
  return {
      {"uneven length", {1111, 16, 200, 9, 3, 16}},
      {"wide heads", {700, 8, 90, 8, 2, 40, 64}},
      {"shared KV head", {517, 16, 60, 4, 1, 24, 32}},
      {"one KV head per query head", {450, 8, 64, 4, 4, 32, 32}},
      {"one block: most ranks own nothing", {90, 16, 40, 4, 2, 16}},
      {"fewer blocks than chunks", {300, 16, 64, 6, 3, 16}},
      {"window over several shards", {640, 300, 340, 4, 2, 16, 32}},
      {"ranks without a past position", {256, 200, 230, 4, 2, 16, 32}},
      {"budget larger than a shard", {600, 16, 500, 4, 2, 16, 32}},
      {"all but one kept", {333, 16, 332, 4, 2, 16, 32}},
      {"one past token kept", {333, 16, 17, 4, 2, 16, 32}},
      {"all scores tie", {600, 16, 100, 4, 2, 16, 32, Content::constant}},
      {"periodic ties", {601, 16, 100, 6, 3, 16, 32, Content::periodic}},
      {"attention near one", {600, 16, 100, 4, 2, 16, 32, Content::spike}},
      {"zero weights tie", {600, 16, 300, 4, 2, 16, 32, Content::underflow}},
      {"logits of minus infinity", {400, 16, 300, 4, 2, 16, 32, Content::minus_inf}},
  };
}

}  // namespace restkv::testing
