#include "dist/comm/gather_rows.h"

#include <algorithm>
#include <vector>

#include "dist/base/error.h"

namespace restkv {

void gather_half(Communicator& sequence, const SequencePartition& partition, int half, Range range, const void* own,
                 void* global, int64_t row_elements, DType dtype) {
  RESTKV_CHECK(sequence.size() == partition.ranks(), "a group of {} for a partition over {} ranks", sequence.size(),
               partition.ranks());
  RESTKV_CHECK(0 <= range.begin && range.end <= partition.length() && row_elements >= 0,
               "rows [{}, {}) of {}, {} elements each", range.begin, range.end, partition.length(), row_elements);
  std::vector<int64_t> counts(sequence.size()), displacements(sequence.size());
  int64_t total = 0;
  bool in_rank_order = true;  // and of equal sizes, without gaps: the plain collective moves them as fast as links go
  for (int r = 0; r < sequence.size(); ++r) {
    Range rows = intersect(partition.chunks_of(r)[half], range);
    counts[r] = rows.size() * row_elements;
    displacements[r] = rows.empty() ? 0 : (rows.begin - range.begin) * row_elements;
    total += counts[r];
    in_rank_order = in_rank_order && counts[r] == counts[0] && displacements[r] == r * counts[0];
  }
  if (total == 0) return;
  if (in_rank_order)
    sequence.all_gather(own, global, counts[0], dtype);
  else
    sequence.all_gather_v(own, global, counts, displacements, dtype);
}

void gather_rows(Communicator& sequence, const SequencePartition& partition, Range range, const void* local,
                 void* global, int64_t row_elements, DType dtype) {
  RESTKV_CHECK(sequence.size() == partition.ranks(), "a group of {} for a partition over {} ranks", sequence.size(),
               partition.ranks());
  const auto chunks = partition.chunks_of(sequence.rank());
  // The two chunks of a rank lie apart in the global order: one call for the lower ones, one for the upper ones.
  for (int half : {0, 1}) {
    const Range rows = intersect(chunks[half], range);
    const int64_t before = (half == 0 ? 0 : chunks[0].size()) + (rows.empty() ? 0 : rows.begin - chunks[half].begin);
    const char* own = static_cast<const char*>(local);
    if (!rows.empty()) own += before * row_elements * size_of(dtype);
    gather_half(sequence, partition, half, range, own, global, row_elements, dtype);
  }
}

}  // namespace restkv
