// Which tensors a model has, under which names.
#pragma once

#include <string>
#include <vector>

#include "model/weights/gguf_file.h"
#include "model/weights/weight_source.h"

namespace restkv {

struct TensorSpec {
  std::string name;       ///< Hugging Face name
  Shape shape;            ///< [rows, cols] or [n]
  std::string gguf_name;  ///< name in a GGUF file
  /// Heads whose rows a GGUF file holds in the order of interleaved rotation; 0: the rows are in Hugging Face's order.
  int64_t interleaved_heads = 0;
};

/// Rows of a projection to `heads` heads of size d. Rotary pairs are (j, j + d/2) in Hugging Face's order and
/// (2j, 2j + 1) in the interleaved one, so Hugging Face's row p * d/2 + j of a head (p = 0, 1) is row 2j + p there.
/// Returns where Hugging Face's row r lies.
RowMap interleaved_rows(int64_t d);

/// A GGUF file's tensors under their Hugging Face names and in Hugging Face's row order. Tensors that `specs` does not
/// mention keep their own names. Throws InputError for rows that do not divide into the heads.
std::shared_ptr<WeightSource> open_gguf_weights(const GgufFile& file, const std::vector<TensorSpec>& specs);

/// Throws InputError for the first tensor of `specs` that is missing, has another shape, or cannot be read.
void check_tensors(const WeightSource& weights, const std::vector<TensorSpec>& specs);

}  // namespace restkv
