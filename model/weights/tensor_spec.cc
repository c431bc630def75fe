#include "model/weights/tensor_spec.h"

#include <map>

#include "dist/base/error.h"
#include "model/weights/tensor_table.h"

namespace restkv {

RowMap interleaved_rows(int64_t d) {
  return [d](int64_t row) {
    int64_t inside = row % d;
    int64_t half = d / 2;
    return row - inside + 2 * (inside % half) + inside / half;
  };
}

std::shared_ptr<WeightSource> open_gguf_weights(const GgufFile& file, const std::vector<TensorSpec>& specs) {
  std::map<std::string, const TensorSpec*> by_stored_name;
  for (const TensorSpec& spec : specs) by_stored_name[spec.gguf_name] = &spec;
  std::vector<StoredTensor> tensors = file.tensors();
  for (StoredTensor& t : tensors) {
    auto it = by_stored_name.find(t.info.name);
    if (it == by_stored_name.end()) continue;
    const TensorSpec& spec = *it->second;
    if (spec.interleaved_heads > 0) {
      int64_t rows = t.info.shape.front();
      if (rows % (2 * spec.interleaved_heads) != 0)
        fail_input("{}: tensor {}: {} rows; a multiple of twice its {} heads is needed", file.path(), t.info.name, rows,
                   spec.interleaved_heads);
      t.row_map = interleaved_rows(rows / spec.interleaved_heads);
    }
    t.info.name = spec.name;
  }
  return std::make_shared<TensorTable>(file.path() + " (GGUF)", std::move(tensors));
}

void check_tensors(const WeightSource& weights, const std::vector<TensorSpec>& specs) {
  for (const TensorSpec& spec : specs) {
    const WeightInfo& info = weights.info(spec.name);
    if (info.shape != spec.shape)
      fail_input("{}: tensor {} has shape {}; the model's configuration needs {}", weights.describe(), spec.name,
                 shape_text(info.shape), shape_text(spec.shape));
    if (find_encoding(info.encoding) == nullptr)
      fail_input("{}: tensor {} is stored as {}; readable: {}", weights.describe(), spec.name, info.encoding,
                 readable_encodings());
  }
}

}  // namespace restkv
