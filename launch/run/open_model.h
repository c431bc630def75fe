// The model of a configuration: files, or a preset's shape with random weights.
#pragma once

#include "launch/config/run_config.h"
#include "model/checkpoint.h"

namespace restkv {

/// Reads headers only. Throws InputError.
Checkpoint open_model(const RunConfig& config);

/// The same for answering prompts. Throws InputError for random weights too, which have no tokenizer.
Checkpoint open_model_for_text(const RunConfig& config);

}  // namespace restkv
