#include "model/weights/weight_source.h"

namespace restkv {

DType WeightSource::natural_dtype(const std::string& name) const {
  return info(name).encoding == "BF16" ? DType::bf16 : DType::f32;
}

}  // namespace restkv
