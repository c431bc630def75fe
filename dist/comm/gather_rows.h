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

}  // namespace restkv
