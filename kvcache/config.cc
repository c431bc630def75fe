#include "kvcache/config.h"

#include <cmath>

namespace restkv {

int64_t Budget::resolve(int64_t L) const {
  if (fraction <= 0.0) return tokens;
  return static_cast<int64_t>(std::ceil(fraction * static_cast<double>(L)));
}

}  // namespace restkv
