// Weights held in memory, for tests of what reads a WeightSource; and random ones for any configuration.
#pragma once

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "dist/base/error.h"
#include "model/families/family.h"
#include "model/weights/weight_source.h"

namespace restkv::testing {

class MemoryWeights : public WeightSource {
 public:
  /// Values in float32, row-major. `encoding` "BF16" makes bf16 the natural dtype (the values are not rounded here).
  void add(const std::string& name, Shape shape, std::vector<float> values, const std::string& encoding = "F32") {
    int64_t n = 1;
    for (int64_t size : shape) n *= size;
    RESTKV_CHECK(n == static_cast<int64_t>(values.size()), "{}: {} values", name, values.size());
    tensors_[name] = {{name, encoding, std::move(shape), 4 * n}, std::move(values)};
  }

  bool contains(const std::string& name) const override { return tensors_.contains(name); }
  const WeightInfo& info(const std::string& name) const override { return find(name).first; }
  std::string describe() const override { return "weights in memory"; }
  std::vector<WeightInfo> list() const override {
    std::vector<WeightInfo> all;
    for (const auto& [name, tensor] : tensors_) all.push_back(tensor.first);
    return all;
  }
  const std::vector<float>& values(const std::string& name) const { return find(name).second; }

  void read(const std::string& name, Range rows, Range cols, DType dtype, void* dst) const override {
    const auto& [info, values] = find(name);
    int64_t width = info.shape.back();
    int64_t height = info.shape.size() == 1 ? 1 : info.shape.front();
    RESTKV_CHECK(0 <= rows.begin && rows.end <= height && 0 <= cols.begin && cols.end <= width, "{}: slice", name);
    int64_t i = 0;
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      for (int64_t c = cols.begin; c < cols.end; ++c, ++i) {
        float x = values[static_cast<size_t>(r * width + c)];
        if (dtype == DType::f32)
          static_cast<float*>(dst)[i] = x;
        else
          static_cast<bf16*>(dst)[i] = to_bf16(x);
      }
    }
  }

 private:
  using Entry = std::pair<WeightInfo, std::vector<float>>;
  const Entry& find(const std::string& name) const {
    auto it = tensors_.find(name);
    if (it == tensors_.end()) fail_input("{}: there is no tensor {}", describe(), name);
    return it->second;
  }
  std::map<std::string, Entry> tensors_;
};

/// Every tensor of the model: norms near 1, matrices normal with standard deviation gain / sqrt(columns).
inline std::shared_ptr<MemoryWeights> random_weights(const ModelConfig& config, uint64_t seed, double gain = 1.0) {
  auto weights = std::make_shared<MemoryWeights>();
  std::mt19937_64 engine(seed);
  for (const TensorSpec& spec : family_of(config).tensors(config)) {
    bool vector = spec.shape.size() == 1;
    int64_t n = vector ? spec.shape[0] : spec.shape[0] * spec.shape[1];
    double deviation = vector ? 0.1 : gain / std::sqrt(static_cast<double>(spec.shape.back()));
    std::normal_distribution<double> draw(vector ? 1.0 : 0.0, deviation);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& x : values) x = static_cast<float>(draw(engine));
    weights->add(spec.name, spec.shape, std::move(values));
  }
  return weights;
}

}  // namespace restkv::testing
