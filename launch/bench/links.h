// How fast the ranks of a layout reach each other, measured by the communicator that the run itself uses.
#pragma once

#include <utility>
#include <vector>

#include "dist/base/context.h"
#include "dist/comm/process_grid.h"

namespace restkv {

/// Over all ranks of a layout. Of one rank: empty.
struct Links {
  std::vector<std::pair<double, double>> all_reduce;  ///< (bytes, s) of sums of f32, ascending
  double gather_bytes = 0.0;                          ///< bytes/s that a rank receives in a large all-gather
};

/// Takes some tens of milliseconds; its memory is given back. Collective over the grid.
Links measure_links(Context& ctx, const ProcessGrid& grid);

}  // namespace restkv
