// The copies behind KvCache: kept rows into a layer's storage, and from one storage into a larger one.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/gemm.h"
#include "kvcache/kept_rows.h"

namespace restkv {

/// A layer's storage: head h has capacity[h] rows from row first_row[h] on. (On a GPU where these lie on the device
/// alone, null.)
struct CacheRows {
  void* k = nullptr;
  void* v = nullptr;
  int32_t* position = nullptr;
  const std::vector<int64_t>* first_row = nullptr;  ///< [heads]
  const std::vector<int64_t>* capacity = nullptr;   ///< [heads]
  int64_t row_bytes = 0;                            ///< of k and of v
  int64_t* sums = nullptr;                          ///< as DeviceKvLayer::sums
  int32_t* slot = nullptr;                          ///< may be null; store_rows() does not set it

  int64_t heads() const { return static_cast<int64_t>(first_row->size()); }
};

/// What is stored: see KvCache::store.
struct CacheSource {
  MatrixView k, v;
  std::vector<int64_t> source_head;
  Tensor positions;
};

namespace cpu {  // cache_rows_cpu.cc
void store_rows(Context& ctx, const CacheSource& source, const KeptRows& kept, const CacheRows& to);
/// The first length[h] rows of each head.
void move_rows(const CacheRows& from, const std::vector<int64_t>& length, const CacheRows& to);
}  // namespace cpu

namespace gpu {  // cache_rows_gpu.cu
/// Also sets the layer's first_rows and lengths [heads]. All heads have the same capacity there; with packed_reserve
/// from 0 up first_rows are read instead (pack_heads()), and `to` has neither first rows nor capacities.
void store_rows(Context& ctx, const CacheSource& source, const KeptRows& kept, const CacheRows& to, int64_t* first_rows,
                int32_t* lengths, int64_t packed_reserve = -1);
/// The first `length` rows of each head, all of one capacity; also sets first_rows [heads].
void move_rows(Context& ctx, const CacheRows& from, int64_t length, const CacheRows& to, int64_t* first_rows);
/// The first lengths[h] rows of each head from row from_first[h] to row to_first[h]; all [heads] on the device.
void move_ragged_rows(Context& ctx, const CacheRows& from, const int64_t* from_first, const int32_t* lengths,
                      const CacheRows& to, const int64_t* to_first, int64_t heads);
/// Heads of `capacity` rows each, of which `length` are in use: sets first_rows and lengths [heads].
void begin_rows(Context& ctx, int64_t heads, int64_t capacity, int64_t length, int64_t* first_rows, int32_t* lengths);
/// Heads that follow each other, each with room for `reserve` more rows than it has: lengths[h] is the sum of
/// counts[p * stride + h] over p < parts.
void pack_heads(Context& ctx, const int32_t* counts, int64_t parts, int64_t stride, int64_t heads, int64_t reserve,
                int64_t* first_rows, int32_t* lengths);
}  // namespace gpu

}  // namespace restkv
