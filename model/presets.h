// The shapes of well-known models, for runs with random weights.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "model/checkpoint.h"
#include "model/config.h"

namespace restkv {

struct Preset {
  std::string_view name;  ///< "llama-3.1-8b"
  ModelConfig config;
};

/// All presets.
std::span<const Preset> presets();

/// The shape of `name`, with its first `layers` layers (0: all). Throws InputError when there is no such preset (the
/// message lists those there are), and for more layers than it has.
ModelConfig preset_config(std::string_view name, int64_t layers = 0);

/// A model of that shape with weights that are a function of (seed, tensor, row, column) (weights/random_source.h):
/// no files, no tokenizer, the same on every layout.
Checkpoint make_random_checkpoint(std::string_view name, const ModelConfig& config, uint64_t seed, double gain);

}  // namespace restkv
