// The copies behind KvCache: kept rows into a layer's storage, and from one storage into a larger one.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/gemm.h"
#include "kvcache/kept_rows.h"

namespace restkv {

/// A layer's storage: head h has capacity[h] rows from row first_row[h] on.
struct CacheRows {
  void* k = nullptr;
  void* v = nullptr;
  int32_t* position = nullptr;
  const std::vector<int64_t>* first_row = nullptr;  ///< [heads]
  const std::vector<int64_t>* capacity = nullptr;   ///< [heads]
  int64_t row_bytes = 0;                            ///< of k and of v
  int32_t* slot = nullptr;                          ///< may be null; move_rows() alone reads it

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

namespace gpu {  // cache_rows_gpu.cu; all heads of a layer have the same capacity there
/// Also sets the layer's first_rows and lengths [heads].
void store_rows(Context& ctx, const CacheSource& source, const KeptRows& kept, const CacheRows& to, int64_t* first_rows,
                int32_t* lengths);
/// The first `length` rows of each head; also sets first_rows [heads].
void move_rows(Context& ctx, const CacheRows& from, int64_t length, const CacheRows& to, int64_t* first_rows);
/// Heads of `capacity` rows each, of which `length` are in use: sets first_rows and lengths [heads].
void begin_rows(Context& ctx, int64_t heads, int64_t capacity, int64_t length, int64_t* first_rows, int32_t* lengths);
}  // namespace gpu

}  // namespace restkv
