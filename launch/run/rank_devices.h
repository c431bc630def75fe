// Whether the devices that the ranks of a run found fit together: pure, the same verdict on every rank.
#pragma once

#include <span>
#include <string>

#include "dist/base/context.h"

namespace restkv {

/// What one rank tells the others of its device. Fixed size, without pointers: exchanged as bytes.
struct RankDevice {
  int64_t gpu = 0;   ///< whether it computes on a GPU
  int64_t seen = 0;  ///< GPUs that the process sees
  char host[64] = {};
  char uuid[40] = {};  ///< of its GPU, once it has one
};

/// Why ranks on these devices cannot work together, what was found and what to do; empty when they can. `by_choice`:
/// parallel.device is not `auto`.
std::string device_conflict(std::span<const RankDevice> ranks, bool by_choice);

}  // namespace restkv
