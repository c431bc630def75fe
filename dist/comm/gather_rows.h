// Rows that lie scattered over the sequence ranks, gathered in global order.
#pragma once

#include "dist/comm/communicator.h"
#include "dist/comm/partition.h"

namespace restkv {

/// Every rank holds rows of its local positions: local [L_lc, row_elements], in the partition's local order. On
/// return global [range.size(), row_elements] holds the rows of positions [range.begin, range.end), in order, on
/// every rank of the group. Collective over `sequence` (size == partition.ranks()).
void gather_rows(Communicator& sequence, const SequencePartition& partition, Range range, const void* local,
                 void* global, int64_t row_elements, DType dtype);

/// The same for one half of the chunks, the lower (0) or the upper ones (1): one collective, or none when no position
/// of `range` lies in them. `own`: this rank's rows of that half within the range, dense (may be null when there are
/// none). Rows of the other half are left as they are.
void gather_half(Communicator& sequence, const SequencePartition& partition, int half, Range range, const void* own,
                 void* global, int64_t row_elements, DType dtype);

}  // namespace restkv
