// How a layer's attention weights differ from softmax(q . k / sqrt(d)) over everything before the query.
#pragma once

#include <cmath>
#include <cstdint>

namespace restkv {

struct AttentionForm {
  double scale = 0.0;          ///< scores are q . k times it; 0: 1 / sqrt(d)
  double softcap = 0.0;        ///< scores s become cap tanh(s / cap); 0: they stay
  int64_t sliding_window = 0;  ///< a query at position p sees positions p - sliding_window + 1 to p; 0: all before it

  /// Whether queries at positions below `length` see what plain attention shows them.
  bool plain(int64_t length) const {
    return scale == 0.0 && softcap == 0.0 && (sliding_window == 0 || length <= sliding_window);
  }
  /// What 1 / sqrt(d) is to be multiplied by.
  double relative_scale(int64_t d) const { return scale == 0.0 ? 1.0 : scale * std::sqrt(static_cast<double>(d)); }
};

}  // namespace restkv
