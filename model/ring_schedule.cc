#include "model/ring_schedule.h"

#include <array>
#include <cstddef>

namespace restkv {

std::vector<std::vector<RingBlock>> ring_schedule(const SequencePartition& partition, int rank) {
  const int ranks = partition.ranks();
  const auto own = partition.chunks_of(rank);
  std::vector<std::vector<RingBlock>> steps(static_cast<size_t>(ranks));
  std::array<RingBlock*, 2> last = {nullptr, nullptr};
  for (int step = 0; step < ranks; ++step) {
    const int source = ring_source(rank, ranks, step);
    const int64_t lower = partition.chunks_of(source)[0].size(), both = partition.local_size(source);
    std::vector<RingBlock>& blocks = steps[static_cast<size_t>(step)];
    blocks.reserve(2);  // pointers into it are kept
    auto add = [&](int half, int64_t keys, int64_t first_position) {
      if (own[half].empty() || keys == 0) return;
      blocks.push_back({half, keys, first_position, last[half] == nullptr, false});
      last[half] = &blocks.back();
    };
    if (source == rank) {
      // In local order the upper chunk follows the lower one, as it does in the prompt.
      add(0, both, 0);
      add(1, both, lower);
    } else if (source < rank) {
      add(0, lower, lower);
      add(1, lower, lower);
    } else {
      add(1, both, both);
    }
  }
  for (RingBlock* block : last)
    if (block != nullptr) block->last = true;
  return steps;
}

}  // namespace restkv
