// A WeightSource over tensors that lie in mapped files.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/weights/stored_tensor.h"

namespace restkv {

class TensorTable : public WeightSource {
 public:
  /// `origin`: path and format, for messages. Throws InputError for two tensors of one name.
  TensorTable(std::string origin, std::vector<StoredTensor> tensors);

  bool contains(const std::string& name) const override { return tensors_.contains(name); }
  const WeightInfo& info(const std::string& name) const override { return find(name).info; }
  std::vector<WeightInfo> list() const override;
  std::string describe() const override { return origin_; }
  /// May be called from several threads at once.
  void read(const std::string& name, Range rows, Range cols, DType dtype, void* dst) const override;

 private:
  const StoredTensor& find(const std::string& name) const;

  std::string origin_;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace restkv
