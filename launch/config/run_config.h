// What one run is told to do: the YAML file with its --set overrides, as typed values. Every field has a row in
// key_table.cc, where its unit, range and meaning stand; the initial values here are the defaults.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvcache/config.h"

namespace restkv {

enum class WeightDtype { automatic, f32, bf16 };
enum class DecodeChoice { automatic, sequence, tensor };
enum class ChatChoice { automatic, none };

struct RunConfig {
  std::string file;  ///< the YAML file; stands in messages, is no key itself

  struct Model {
    std::string path;
    WeightDtype dtype = WeightDtype::automatic;
  } model;

  struct Parallel {
    int64_t sequence = 0;  ///< 0: all ranks that `tensor` leaves
    int64_t tensor = 1;
    int64_t threads = 0;  ///< 0: this rank's share of the cores it may use
    DecodeChoice decode = DecodeChoice::automatic;
    double timeout_s = 600.0;
    double memory_gib = 0.0;  ///< 0: what the host has available
  } parallel;

  CacheConfig cache;

  struct Prompt {
    std::string text;
    std::string file;
    std::string jsonl;
    ChatChoice chat = ChatChoice::automatic;
    std::string system;
    int64_t max_tokens = 0;  ///< 0: no limit
  } prompt;

  struct Generate {
    int64_t max_new_tokens = 128;
    int64_t batch = 1;  ///< requests decoded together
    double temperature = 0.0;
    int64_t top_k = 0;
    double top_p = 1.0;
    uint64_t seed = 0;
    std::vector<std::string> stop;
    bool ignore_eos = false;
  } generate;

  struct Output {
    std::string file = "results/{config}.jsonl";  ///< {config}: name of the YAML file without folder and ending
    bool resume = true;
    bool stream = true;
    bool progress = true;
  } output;

  /// Ranks that the configuration itself names: sequence * tensor, or 0 when `sequence` is left open.
  int64_t world_size() const { return parallel.sequence * parallel.tensor; }
};

/// Reads a YAML file, then applies each "key=value" of `overrides` in order, then checks what the keys say together.
/// Throws InputError: "FILE:LINE: ..." or "--set KEY=VALUE: ...", naming the key, what was found and what is allowed;
/// for a key that does not exist, the nearest one that does.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides);

/// Fixes `parallel.sequence` for a world of this many ranks. Throws InputError when sequence x tensor cannot be the
/// world, saying what mpirun or the configuration would have to say.
void resolve_layout(RunConfig& config, int64_t world_size);

}  // namespace restkv
