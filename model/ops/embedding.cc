#include "model/ops/embedding.h"

#include <cstring>

#include "model/ops/dispatch.h"

namespace restkv {

void embed(Context& ctx, const Tensor& table, Range vocab, std::span<const int32_t> tokens, const MatrixView& y,
           float scale) {
  if (on_gpu(ctx)) {
    Tensor ids = ctx.to_device(tokens.data(), DType::i32, {static_cast<int64_t>(tokens.size())});
    return gpu::embed(ctx, table, vocab, ids.data<int32_t>(), y, scale);
  }
  require_cpu_f32(ctx, "embed", {y.dtype});
  int64_t H = table.size(1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    float* row = y.row<float>(static_cast<int64_t>(i));
    if (!vocab.contains(tokens[i])) {
      std::memset(row, 0, sizeof(float) * static_cast<size_t>(H));
    } else if (table.dtype() == DType::f32) {
      const float* from = table.data<float>() + (tokens[i] - vocab.begin) * H;
      for (int64_t c = 0; c < H; ++c) row[c] = from[c] * scale;
    } else {
      const bf16* from = table.data<bf16>() + (tokens[i] - vocab.begin) * H;
      for (int64_t c = 0; c < H; ++c) row[c] = to_float(from[c]) * scale;
    }
  }
}

}  // namespace restkv
