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
enum class ContextChoice { automatic, allgather, ring };
enum class ChatChoice { automatic, none };
enum class DeviceChoice { automatic, cpu, gpu };
enum class ResidualPlace { device, host };
enum class WeightChoice { file, random };
enum class BenchPrompt { random };

struct RunConfig {
  std::string file;  ///< the YAML file; stands in messages, is no key itself

  struct Model {
    std::string path;
    WeightChoice weights = WeightChoice::file;
    std::string preset;  ///< with random weights
    int64_t layers = 0;  ///< 0: the preset's
    uint64_t seed = 0;
    double gain = 1.0;
    WeightDtype dtype = WeightDtype::automatic;

    /// The path, or "random:llama-3.1-8b".
    std::string name() const { return weights == WeightChoice::file ? path : std::string("random:").append(preset); }
  } model;

  struct Parallel {
    DeviceChoice device = DeviceChoice::automatic;
    int64_t sequence = 0;  ///< 0: all ranks that `tensor` leaves
    int64_t tensor = 1;
    int64_t threads = 0;  ///< 0: this rank's share of the cores it may use
    ContextChoice context = ContextChoice::automatic;
    DecodeChoice decode = DecodeChoice::automatic;
    double timeout_s = 600.0;
    double memory_gib = 0.0;  ///< 0: what the host, or the GPU, has available
  } parallel;

  struct Prefill {
    int64_t chunk = 0;  ///< 0: the whole prompt at once
    ResidualPlace residual = ResidualPlace::device;
  } prefill;

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

  /// What `restkv bench` sweeps over: every combination of the lists is a point.
  struct Bench {
    std::vector<std::string> presets;  ///< one after the other, each in the place of model.preset; empty: that one
    std::vector<int64_t> context = {4096};
    std::vector<std::string> policies = {"full", "restkv"};
    std::vector<Budget> budgets = {Budget{}};
    std::vector<int64_t> batch = {1};
    std::vector<std::string> layouts;  ///< "2x1": sequence x tensor; empty: the one of `parallel`
    BenchPrompt prompt = BenchPrompt::random;
    uint64_t seed = 0;
    bool distinct = true;  ///< every sequence of a batch has a prompt of its own
    int64_t new_tokens = 32;
    int64_t warmup = 1;
    int64_t repeats = 3;
    std::string file = "results/{config}.bench.jsonl";
  } bench;

  /// What `restkv plan` predicts times from.
  struct Plan {
    std::string ceilings;  ///< lines of a bench; empty: those of a known GPU
    int64_t ranks_per_node = 8;
    std::string file;  ///< of JSON lines; empty: none
  } plan;

  /// Ranks that the configuration itself names: sequence * tensor, or 0 when `sequence` is left open.
  int64_t world_size() const { return parallel.sequence * parallel.tensor; }
};

/// What a configuration is read for. A bench makes its own prompts; `run` and `plan` need one, unless the weights are
/// random (then there is no tokenizer that could read it).
enum class ConfigUse { run, bench };

/// Reads a YAML file, then applies each "key=value" of `overrides` in order, then checks what the keys say together.
/// Throws InputError: "FILE:LINE: ..." or "--set KEY=VALUE: ...", naming the key, what was found and what is allowed;
/// for a key that does not exist, the nearest one that does.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides,
                          ConfigUse use = ConfigUse::run);

/// Fixes `parallel.sequence` for a world of this many ranks. Throws InputError when sequence x tensor cannot be the
/// world, saying what mpirun or the configuration would have to say.
void resolve_layout(RunConfig& config, int64_t world_size);

}  // namespace restkv
