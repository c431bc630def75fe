#include "model/presets.h"

#include "dist/base/error.h"
#include "model/families/family.h"
#include "model/weights/random_source.h"

namespace restkv {
namespace {

RopeConfig rope(double theta) {
  RopeConfig config;
  config.theta = theta;
  return config;
}

/// Llama 3.1: a base of 500,000, frequencies stretched by 8 from 8,192 positions on.
RopeConfig llama31_rope() {
  RopeConfig config = rope(500000.0);
  config.type = "llama3";
  config.factor = 8.0;
  config.low_freq_factor = 1.0;
  config.high_freq_factor = 4.0;
  config.original_max_positions = 8192;
  return config;
}

std::string names() {
  std::string list;
  for (const Preset& preset : presets()) list += (list.empty() ? "" : ", ") + std::string(preset.name);
  return list;
}

}  // namespace

std::span<const Preset> presets() {
  // family, layers, hidden, intermediate, query heads, KV heads, head size, vocabulary, positions, eps, tied, rope,
  // traits
  static const Preset table[] = {
      {"tiny", {"llama", 2, 256, 512, 8, 2, 32, 1024, 8192, 1e-5, false, rope(10000.0)}},
      {"llama-2-7b", {"llama", 32, 4096, 11008, 32, 32, 128, 32000, 4096, 1e-5, false, rope(10000.0)}},
      {"llama-3.1-8b", {"llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 1e-5, false, llama31_rope()}},
      {"llama-3.1-70b", {"llama", 80, 8192, 28672, 64, 8, 128, 128256, 131072, 1e-5, false, llama31_rope()}},
      {"llama-3.1-405b", {"llama", 126, 16384, 53248, 128, 8, 128, 128256, 131072, 1e-5, false, llama31_rope()}},
      // No sliding window since v0.2.
      {"mistral-7b-v0.3", {"mistral", 32, 4096, 14336, 32, 8, 128, 32768, 32768, 1e-5, false, rope(1000000.0)}},
      {"gemma-7b", {"gemma", 28, 3072, 24576, 16, 16, 256, 256000, 8192, 1e-6, true, rope(10000.0), kGemmaTraits}},
      {"qwen2.5-7b",
       {"qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 131072, 1e-6, false, rope(1000000.0), kQwen2Traits}},
  };
  return table;
}

ModelConfig preset_config(std::string_view name, int64_t layers) {
  for (const Preset& preset : presets()) {
    if (preset.name != name) continue;
    if (layers > preset.config.layers)
      fail_input("model.layers: found {}, expected at most {}, the layers of {}", layers, preset.config.layers, name);
    ModelConfig config = preset.config;
    if (layers > 0) config.layers = layers;
    return config;
  }
  fail_input("model.preset: found \"{}\", expected one of {}", name, names());
}

Checkpoint make_random_checkpoint(std::string_view name, const ModelConfig& config, uint64_t seed, double gain) {
  Checkpoint checkpoint;
  checkpoint.path = fmt::format("random:{}", name);
  checkpoint.format = "random";
  checkpoint.config = config;
  checkpoint.weights = std::make_shared<RandomSource>(config, seed, gain);
  return checkpoint;
}

}  // namespace restkv
