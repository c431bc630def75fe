#include "launch/config/run_config.h"

#include <filesystem>

#include "dist/base/error.h"
#include "launch/config/key_table.h"
#include "launch/config/yaml_reader.h"
#include "model/prefill_chunks.h"

namespace restkv {
namespace {

bool is_literal(const std::string& key) {
  const KeySpec* spec = find_key(key);
  return spec != nullptr && spec->literal;
}

bool is_section(const std::string& name) {
  for (const KeySpec& key : run_keys())
    if (key.name.starts_with(name + ".")) return true;
  return false;
}

void apply(RunConfig& config, const Value& value) {
  const KeySpec* key = find_key(value.key);
  if (key == nullptr && is_section(value.key)) {
    if (value.kind == Value::Kind::missing) return;  // "cache:" with nothing below
    fail_input("{}: {}: found {}, expected a section with keys below it", value.where, value.key, value.found());
  }
  if (key == nullptr)
    fail_input("{}: unknown key \"{}\"; the nearest known key is \"{}\" (configs/README.md lists all)", value.where,
               value.key, nearest_key(value.key));
  key->set(config, value);
}

void check_model(const RunConfig& config) {
  const auto& m = config.model;
  if (m.weights == WeightChoice::file) {
    if (m.path.empty())
      fail_input("{}: model.path is missing: expected a Hugging Face directory or a GGUF file", config.file);
    if (!m.preset.empty() || m.layers > 0 || !config.bench.presets.empty())
      fail_input("{}: {} needs random weights, but model.weights is file; expected model.weights: random", config.file,
                 !m.preset.empty() ? "model.preset"
                 : m.layers > 0    ? "model.layers"
                                   : "bench.presets");
    return;
  }
  if (!m.path.empty())
    fail_input("{}: model.path is given, but model.weights is random; expected one of them", config.file);
  if (m.preset.empty())
    fail_input("{}: model.preset is missing: random weights need the shape of a model, for example llama-3.1-8b",
               config.file);
  if (m.gain <= 0) fail_input("{}: model.gain: found 0, expected a number above 0 and at most 100", config.file);
}

void check_prompt(const RunConfig& config) {
  const auto& p = config.prompt;
  int given = !p.text.empty() + !p.file.empty() + !p.jsonl.empty();
  if (given != 1)
    fail_input("{}: {} of prompt.text, prompt.file and prompt.jsonl are given (and not empty), expected exactly one",
               config.file, given);
  if (p.chat == ChatChoice::none && !p.system.empty())
    fail_input("{}: prompt.system needs a chat template, but prompt.chat is none; expected prompt.chat: auto",
               config.file);
}

void check_prefill(const RunConfig& config) {
  try {
    check_prefill_chunk(config.prefill.chunk);
  } catch (const InputError& e) {
    fail_input("{}: {}", config.file, e.what());
  }
  if (config.prefill.residual == ResidualPlace::host && config.prefill.chunk == 0)
    fail_input("{}: prefill.residual: found host, expected device, or a prefill.chunk by which it can come and go",
               config.file);
  if (config.prefill.chunk > 0 && config.parallel.context == ContextChoice::ring)
    fail_input("{}: parallel.context: found ring, expected auto or allgather with prefill.chunk", config.file);
}

/// What single keys cannot say.
void check_together(const RunConfig& config, ConfigUse use) {
  check_model(config);
  check_prefill(config);
  if (use == ConfigUse::run && config.model.weights == WeightChoice::file) check_prompt(config);
  try {
    config.cache.validate();
  } catch (const InputError& e) {
    fail_input("{}: {}", config.file, e.what());
  }
  if (config.generate.top_p <= 0)
    fail_input("{}: generate.top_p: found 0, expected a number above 0 and at most 1", config.file);
  for (const std::string& stop : config.generate.stop)
    if (stop.empty())
      fail_input("{}: generate.stop: found an empty text, expected texts of at least one byte", config.file);
  if (config.output.file.empty() && !config.output.stream)
    fail_input("{}: output.file is empty and output.stream is false: the answer would be lost; expected one of them",
               config.file);
}

void expand_name(std::string& path, const RunConfig& config) {
  const std::string mark = "{config}";
  size_t at = path.find(mark);
  if (at != std::string::npos) path.replace(at, mark.size(), std::filesystem::path(config.file).stem().string());
}

}  // namespace

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides, ConfigUse use) {
  RunConfig config;
  config.file = path;
  for (const Value& value : read_yaml_values(path)) apply(config, value);
  for (const std::string& assignment : overrides) apply(config, read_override(assignment, is_literal));
  // A bench takes them one after the other (bench_command.cc); a plan shows the first.
  if (config.model.preset.empty() && !config.bench.presets.empty()) config.model.preset = config.bench.presets.front();
  check_together(config, use);
  expand_name(config.output.file, config);
  expand_name(config.bench.file, config);
  return config;
}

void resolve_layout(RunConfig& config, int64_t world_size) {
  auto& p = config.parallel;
  if (p.sequence == 0) {
    if (world_size % p.tensor != 0)
      fail_input(
          "{}: parallel.tensor is {}, but the run has {} ranks, which {} does not divide; expected mpirun -np with a "
          "multiple of {}, or a parallel.tensor that divides {}",
          config.file, p.tensor, world_size, p.tensor, p.tensor, world_size);
    p.sequence = world_size / p.tensor;
  }
  if (p.sequence * p.tensor != world_size)
    fail_input(
        "{}: parallel.sequence x parallel.tensor is {} x {} = {} ranks, but the run has {}; expected mpirun -np {}, or "
        "sizes whose product is {}",
        config.file, p.sequence, p.tensor, p.sequence * p.tensor, world_size, p.sequence * p.tensor, world_size);
}

}  // namespace restkv
