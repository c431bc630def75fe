// Weights that need no file: every element is a function of (seed, tensor name, row, column), so any slice on any
// layout sees the same model. For tests and for scaling experiments on shapes whose checkpoints are not at hand.
#pragma once

#include <map>

#include "model/config.h"
#include "model/weights/random_fill.h"
#include "model/weights/weight_source.h"

namespace restkv {

class RandomSource : public WeightSource {
 public:
  /// `gain` scales the matrices (biases stay): 1 keeps the size of activations; larger values make attention less flat.
  RandomSource(const ModelConfig& config, uint64_t seed, double gain = 1.0);

  bool contains(const std::string& name) const override { return infos_.count(name) != 0; }
  const WeightInfo& info(const std::string& name) const override;
  std::vector<WeightInfo> list() const override;
  std::string describe() const override;
  void read(const std::string& name, Range rows, Range cols, DType dtype, void* dst) const override;
  bool fill(Context& ctx, const std::string& name, Range rows, Range cols, const Tensor& out) const override;

 private:
  void add(const std::string& name, Shape shape);
  RandomElements elements(const std::string& name, Range rows, Range cols) const;

  uint64_t seed_;
  double gain_;
  double norm_center_;
  std::map<std::string, WeightInfo> infos_;
};

}  // namespace restkv
