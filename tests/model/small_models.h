// The shapes and prompts of tests that run whole models with random weights.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dist/base/mix.h"
#include "model/config.h"

namespace restkv::testing {

/// Llama's layer as CPU ranks run it in milliseconds; no power of two where none is needed.
inline ModelConfig tiny_config(int64_t Hq, int64_t Hkv) {
  ModelConfig config;
  config.family = "llama";
  config.layers = 3;
  config.hidden = 64;
  config.intermediate = 150;
  config.Hq = Hq;
  config.Hkv = Hkv;
  config.d = 16;
  config.vocab = 131;
  config.max_positions = 8192;
  config.tied_embeddings = true;
  return config;
}

/// The same with widths that the kernels of GPUs take.
inline ModelConfig small_config(int64_t Hq, int64_t Hkv, int64_t d, std::string family = "llama") {
  ModelConfig config;
  config.family = std::move(family);
  config.layers = 3;
  config.hidden = 256;
  config.intermediate = 704;
  config.Hq = Hq;
  config.Hkv = Hkv;
  config.d = d;
  config.vocab = 1003;
  config.max_positions = 65536;
  return config;
}

inline std::vector<int32_t> random_prompt(int64_t n, int64_t vocab, uint64_t seed = 99) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i)
    tokens.push_back(static_cast<int32_t>(mix64(static_cast<uint64_t>(i) + seed) % static_cast<uint64_t>(vocab)));
  return tokens;
}

}  // namespace restkv::testing
