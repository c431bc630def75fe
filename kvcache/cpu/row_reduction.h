// The reduction over window rows, one position per lane; rows are fed in the order of row_order(), w counts them.
#pragma once

#include "kvcache/cpu/panel.h"
#include "kvcache/statistics/window_attention.h"

namespace restkv {

class LaneReduction {
 public:
  LaneReduction(RowReduction kind, double alpha, int64_t rows)
      : kind_(kind), newer_(static_cast<float>(alpha)), older_(static_cast<float>(1.0 - alpha)), rows_(rows) {}

  RESTKV_INLINE Lanes add(Lanes state, Lanes x, int64_t w) const {
    if (w == 0) return x;
    return kind_ == RowReduction::ema || kind_ == RowReduction::inverse_ema ? x * newer_ + state * older_ : state + x;
  }
  RESTKV_INLINE Lanes finish(Lanes state) const {
    return kind_ == RowReduction::mean ? state / static_cast<float>(rows_) : state;
  }

 private:
  RowReduction kind_;
  float newer_, older_;
  int64_t rows_;
};

}  // namespace restkv
