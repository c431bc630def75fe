// restkv inspect: what a model's files say of it.
#pragma once

#include <string>

namespace restkv {

/// Prints architecture, tensors, tokenizer and chat template to standard output. Throws InputError when the model
/// cannot be read.
void inspect_command(const std::string& model_path);

}  // namespace restkv
