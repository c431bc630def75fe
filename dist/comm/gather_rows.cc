#include "dist/comm/gather_rows.h"

#include <vector>

#include "dist/base/error.h"

namespace restkv {

void gather_rows(Communicator& sequence, const SequencePartition& partition, Range range, const void* local,
                 void* global, int64_t row_elements, DType dtype) {
  RESTKV_CHECK(sequence.size() == partition.ranks(), "a group of {} for a partition over {} ranks", sequence.size(),
               partition.ranks());
  RESTKV_CHECK(0 <= range.begin && range.end <= partition.length() && row_elements >= 0,
               "rows [{}, {}) of {}, {} elements each", range.begin, range.end, partition.length(), row_elements);
  std::vector<int64_t> counts(sequence.size()), displacements(sequence.size());
  // The two chunks of a rank lie apart in the global order: one call for the lower ones, one for the upper ones.
  for (int half : {0, 1}) {
    int64_t total = 0, own_start = 0;
    for (int r = 0; r < sequence.size(); ++r) {
      auto chunks = partition.chunks_of(r);
      Range rows = intersect(chunks[half], range);
      counts[r] = rows.size() * row_elements;
      displacements[r] = rows.empty() ? 0 : (rows.begin - range.begin) * row_elements;
      total += counts[r];
      if (r == sequence.rank() && !rows.empty())
        own_start = (half == 0 ? 0 : chunks[0].size()) + rows.begin - chunks[half].begin;
    }
    if (total == 0) continue;
    const char* send = static_cast<const char*>(local) + own_start * row_elements * size_of(dtype);
    sequence.all_gather_v(send, global, counts, displacements, dtype);
  }
}

}  // namespace restkv
