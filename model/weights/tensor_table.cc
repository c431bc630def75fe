#include "model/weights/tensor_table.h"

#include <utility>

#include "dist/base/error.h"

namespace restkv {

TensorTable::TensorTable(std::string origin, std::vector<StoredTensor> tensors) : origin_(std::move(origin)) {
  for (StoredTensor& t : tensors) {
    std::string name = t.info.name;
    if (!tensors_.emplace(name, std::move(t)).second) fail_input("{}: two tensors are named {}", origin_, name);
  }
}

std::vector<WeightInfo> TensorTable::list() const {
  std::vector<WeightInfo> all;
  all.reserve(tensors_.size());
  for (const auto& [name, t] : tensors_) all.push_back(t.info);
  return all;
}

const StoredTensor& TensorTable::find(const std::string& name) const {
  auto it = tensors_.find(name);
  if (it == tensors_.end())
    fail_input("{}: there is no tensor {} (it holds {} tensors)", origin_, name, tensors_.size());
  return it->second;
}

void TensorTable::read(const std::string& name, Range rows, Range cols, DType dtype, void* dst) const {
  read_stored(find(name), rows, cols, dtype, dst);
}

}  // namespace restkv
