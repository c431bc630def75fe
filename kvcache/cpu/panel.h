// The width of a panel: the positions that the CPU kernels work on at once, two vectors of lanes.
#pragma once

#include <cstdint>

#include "dist/base/lanes.h"

namespace restkv {

inline constexpr int64_t kPanel = 2 * kLanes;

inline int64_t round_up_to_panel(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }

}  // namespace restkv
