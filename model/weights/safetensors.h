// Weights in safetensors files: one file, or several with an index.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/weights/stored_tensor.h"
#include "model/weights/weight_source.h"

namespace restkv {

/// The tensors of one safetensors file, in the order of their bytes. The header is checked in full: its length against
/// the file, and that the tensors' byte ranges match their shapes and cover the data without gap or overlap.
/// Throws InputError naming the file, the tensor, what was found and what is allowed.
std::vector<StoredTensor> read_safetensors_header(const std::string& path);

/// A file, or a directory with model.safetensors or model.safetensors.index.json.
std::shared_ptr<WeightSource> open_safetensors(const std::string& path);

}  // namespace restkv
