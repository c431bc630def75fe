// The only form in which attention sees keys and values: a gathered layer during prefill (token-major, all heads
// equally long) and an evicted cache during decode (per head, ragged) alike.
#pragma once

#include <cstdint>

#include "dist/base/dtype.h"

namespace restkv {

struct KvView {
  const void* k = nullptr;
  const void* v = nullptr;
  DType dtype = DType::f32;
  int64_t heads = 0;       ///< KV heads in this view
  int64_t d = 0;           ///< head size
  int64_t row_stride = 0;  ///< elements from one row of a head to its next
  /// [heads] elements from k (and v) to row 0 of each head.
  const int64_t* head_offset = nullptr;
  /// [heads] rows of each head.
  const int64_t* lengths = nullptr;
  /// Global positions of the rows, where the view is of a cache: row i of head h is at
  /// positions[head_offset[h] / row_stride + i]; else null.
  const int32_t* positions = nullptr;
  /// In the same place: the row's slot among those of all ranks (slots.h); null: i.
  const int32_t* slots = nullptr;

  template <class T>
  const T* k_head(int64_t head) const {
    return static_cast<const T*>(k) + head_offset[head];
  }
  template <class T>
  const T* v_head(int64_t head) const {
    return static_cast<const T*>(v) + head_offset[head];
  }
};

}  // namespace restkv
