#include "launch/run/open_model.h"

#include "dist/base/error.h"
#include "model/presets.h"

namespace restkv {

Checkpoint open_model(const RunConfig& config) {
  const auto& m = config.model;
  if (m.weights == WeightChoice::file) return open_checkpoint(m.path);
  try {
    return make_random_checkpoint(m.preset, preset_config(m.preset, m.layers), m.seed, m.gain);
  } catch (const InputError& e) {
    fail_input("{}: {}", config.file, e.what());
  }
}

Checkpoint open_model_for_text(const RunConfig& config) {
  if (config.model.weights == WeightChoice::random)
    fail_input(
        "{}: model.weights is random: such a model has no tokenizer and cannot answer prompts; expected restkv bench "
        "CONFIG, which measures it, or model.weights: file with model.path",
        config.file);
  return open_model(config);
}

}  // namespace restkv
