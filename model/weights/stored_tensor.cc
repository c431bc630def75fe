#include "model/weights/stored_tensor.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "dist/base/error.h"

namespace restkv {
namespace {

// Reads of at least this many bytes are announced to the kernel, and their pages given back afterwards.
constexpr int64_t kAdviseBytes = int64_t{1} << 20;
// Elements decoded at a time on the way to bf16 or to part of a block; a multiple of every block size.
constexpr int64_t kTile = 1024;

struct Extent {
  int64_t rows = 1;
  int64_t cols = 0;
};

Extent extent_of(const StoredTensor& t) {
  const Shape& shape = t.info.shape;
  if (shape.size() == 1) return {1, shape[0]};
  if (shape.size() == 2) return {shape[0], shape[1]};
  fail_input("{}: tensor {}: has shape {}; tensors of one or two dimensions can be read", t.file->path(), t.info.name,
             shape_text(shape));
}

void check_request(const StoredTensor& t, Extent extent, Range rows, Range cols, DType dtype) {
  if (t.encoding == nullptr)
    fail_input("{}: tensor {}: is stored as {}; readable here: {}", t.file->path(), t.info.name, t.info.encoding,
               readable_encodings());
  RESTKV_CHECK(dtype == DType::f32 || dtype == DType::bf16, "tensor {}: weights are read as f32 or bf16, not {}",
               t.info.name, name_of(dtype));
  auto inside = [](Range r, int64_t n) { return 0 <= r.begin && r.begin <= r.end && r.end <= n; };
  RESTKV_CHECK(inside(rows, extent.rows) && inside(cols, extent.cols),
               "tensor {} is {} x {}; asked for rows [{}, {}), columns [{}, {})", t.info.name, extent.rows, extent.cols,
               rows.begin, rows.end, cols.begin, cols.end);
}

/// Columns `cols` of one stored row to floats. Whole blocks go straight to `to`; an edge block through a buffer.
void decode_row(const Encoding& e, const std::byte* row, Range cols, float* to) {
  std::array<float, 256> edge;
  int64_t c = cols.begin;
  while (c < cols.end) {
    int64_t block = c / e.block;
    int64_t inside = c - block * e.block;
    const std::byte* from = row + block * e.block_bytes;
    if (inside == 0 && cols.end - c >= e.block) {
      int64_t whole = (cols.end - c) / e.block;
      e.decode(from, whole, to);
      c += whole * e.block;
      to += whole * e.block;
      continue;
    }
    int64_t n = std::min(cols.end - c, e.block - inside);
    e.decode(from, 1, edge.data());
    std::copy_n(edge.data() + inside, n, to);
    c += n;
    to += n;
  }
}

void decode_row_bf16(const Encoding& e, const std::byte* row, Range cols, bf16* to) {
  if (e.name == "BF16") {
    std::memcpy(to, row + 2 * cols.begin, static_cast<size_t>(cols.size()) * 2);
    return;
  }
  std::array<float, kTile> tile;
  for (int64_t c = cols.begin; c < cols.end;) {
    int64_t end = std::min(cols.end, (c / kTile + 1) * kTile);
    decode_row(e, row, {c, end}, tile.data());
    for (int64_t i = 0; i < end - c; ++i) to[i] = to_bf16(tile[static_cast<size_t>(i)]);
    to += end - c;
    c = end;
  }
}

// What is held as it is stored: whole rows in one piece, parts of rows one by one.
void copy_rows(const StoredTensor& t, int64_t stored_cols, Range rows, Range cols, void* dst) {
  constexpr int64_t kElement = sizeof(bf16);
  const int64_t first = t.offset + (rows.begin * stored_cols + cols.begin) * kElement;
  if (cols.size() == stored_cols) return t.file->read(first, rows.size() * stored_cols * kElement, dst);
  auto* to = static_cast<std::byte*>(dst);
  for (int64_t r = 0; r < rows.size(); ++r)
    t.file->read(first + r * stored_cols * kElement, cols.size() * kElement, to + r * cols.size() * kElement);
}

}  // namespace

int64_t encoded_bytes(int64_t block, int64_t block_bytes, const Shape& shape) {
  int64_t elements = 1;
  for (int64_t n : shape)
    if (n < 0 || __builtin_mul_overflow(elements, n, &elements)) return -1;
  int64_t row = shape.empty() ? 1 : shape.back();
  int64_t bytes = 0;
  if (row % block != 0 || __builtin_mul_overflow(elements / block, block_bytes, &bytes)) return -1;
  return bytes;
}

void read_stored(const StoredTensor& t, Range rows, Range cols, DType dtype, void* dst) {
  Extent extent = extent_of(t);
  check_request(t, extent, rows, cols, dtype);
  if (rows.empty() || cols.empty()) return;
  const Encoding& e = *t.encoding;
  if (dtype == DType::bf16 && e.name == "BF16" && !t.row_map) return copy_rows(t, extent.cols, rows, cols, dst);
  const std::byte* base = t.file->data() + t.offset;
  const int64_t row_bytes = extent.cols / e.block * e.block_bytes;
  const int64_t pitch = cols.size() * size_of(dtype);

  // The map of rows, where there is one, permutes inside a head: the slice's own bytes are near enough the right ones.
  const std::byte* first = base + rows.begin * row_bytes;
  const int64_t span = rows.size() * row_bytes;
  const bool advise = span >= kAdviseBytes && cols.size() == extent.cols;
  if (advise) t.file->will_need(first, span);
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const std::byte* row = base + (t.row_map ? t.row_map(r) : r) * row_bytes;
    std::byte* to = static_cast<std::byte*>(dst) + (r - rows.begin) * pitch;
    if (dtype == DType::f32)
      decode_row(e, row, cols, reinterpret_cast<float*>(to));
    else
      decode_row_bf16(e, row, cols, reinterpret_cast<bf16*>(to));
  }
  if (span >= kAdviseBytes) t.file->release(first, span);
}

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace restkv
