#include <cstring>

#include "kvcache/cache_rows.h"

namespace restkv::cpu {
namespace {

void copy_rows(const void* from, int64_t from_byte, void* to, int64_t to_byte, int64_t bytes) {
  if (bytes > 0)
    std::memcpy(static_cast<char*>(to) + to_byte, static_cast<const char*>(from) + from_byte,
                static_cast<size_t>(bytes));
}

}  // namespace

void store_rows(Context& ctx, const CacheSource& source, const KeptRows& kept, const CacheRows& to) {
  const int64_t bytes = to.row_bytes, element = size_of(source.k.dtype);
  const bool wide = source.positions.dtype() == DType::i64;
  ctx.parallel_for(to.heads(), [&](int64_t h) {
    const int64_t count = kept.all ? kept.known : kept.counts.data<int32_t>()[h];
    const int32_t* rows = kept.all ? nullptr : kept.rows.data<int32_t>() + h * kept.capacity();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = rows != nullptr ? rows[i] : i, at = (*to.first_row)[h] + i;
      const int64_t column = source.source_head[h] * bytes;
      copy_rows(source.k.data, row * source.k.ld * element + column, to.k, at * bytes, bytes);
      copy_rows(source.v.data, row * source.v.ld * element + column, to.v, at * bytes, bytes);
      to.position[at] =
          wide ? static_cast<int32_t>(source.positions.data<int64_t>()[row]) : source.positions.data<int32_t>()[row];
    }
  });
}

void move_rows(const CacheRows& from, const std::vector<int64_t>& length, const CacheRows& to) {
  const int64_t bytes = to.row_bytes;
  for (int64_t h = 0; h < to.heads(); ++h) {
    const int64_t old_row = (*from.first_row)[h], new_row = (*to.first_row)[h];
    copy_rows(from.k, old_row * bytes, to.k, new_row * bytes, length[h] * bytes);
    copy_rows(from.v, old_row * bytes, to.v, new_row * bytes, length[h] * bytes);
    copy_rows(from.position, old_row * 4, to.position, new_row * 4, length[h] * 4);
    if (from.slot != nullptr) copy_rows(from.slot, old_row * 4, to.slot, new_row * 4, length[h] * 4);
  }
}

}  // namespace restkv::cpu
