// The cache of one rank: per layer and cache head a run of rows (k, v, position), of any length.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/base/context.h"
#include "kvcache/evict.h"
#include "kvcache/kv_view.h"

namespace restkv {

class KvCache {
 public:
  /// `heads`: cache heads per layer on this rank; d: head size; dtype of k and v.
  KvCache(Context& ctx, int64_t layers, int64_t heads, int64_t d, DType dtype);

  /// Replaces a layer's content by the given rows per head, with room for `reserve` more rows per head.
  /// k, v [n, kv_heads, d] token-major; source_head[h] names the column that cache head h copies from;
  /// positions [n] global positions of the n rows; rows[h] ascending indices into them.
  void store(int64_t layer, const void* k, const void* v, int64_t kv_heads, const int64_t* source_head,
             const int64_t* positions, const std::vector<std::vector<int32_t>>& rows, int64_t reserve);

  /// Appends one row per head. k, v [kv_heads, d]; cache head h copies from column source_head[h].
  /// Grows the storage when the reserve is used up (amortised).
  void append(int64_t layer, const void* k, const void* v, const int64_t* source_head, int64_t position);

  /// Valid until the next store, append or clear of that layer.
  KvView view(int64_t layer) const;
  int64_t length(int64_t layer, int64_t head) const;
  /// Global positions of a head's rows, in storage order.
  std::vector<int64_t> positions(int64_t layer, int64_t head) const;

  int64_t layers() const;
  int64_t heads() const;
  /// Bytes of k and v: of the rows in use, and of the storage held.
  int64_t bytes() const;
  int64_t capacity_bytes() const;

  void clear();

 private:
  struct Layer {
    Tensor k, v;                    // [sum of capacity, d]
    std::vector<int64_t> position;  // [sum of capacity]
    std::vector<int64_t> offset;    // [heads] elements to row 0
    std::vector<int64_t> length;    // [heads]
    std::vector<int64_t> capacity;  // [heads] rows
  };
  void allocate(Layer& layer, const std::vector<int64_t>& capacity);
  void grow(Layer& layer, int64_t extra);

  Context* ctx_;
  int64_t heads_;
  int64_t d_;
  DType dtype_;
  std::vector<Layer> layers_;
};

/// Order-free hash of kept positions: the sum over (layer, head, position) of a 64-bit mix, so ranks add theirs up.
uint64_t kept_hash_term(int64_t layer, int64_t head, int64_t position);

}  // namespace restkv
