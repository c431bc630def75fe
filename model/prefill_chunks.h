// The order in which a rank's prefill works on its rows: arithmetic that the prefill and the plans of a run share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dist/comm/partition.h"

namespace restkv {

/// A run of consecutive positions of one rank.
struct PrefillPart {
  int64_t first = 0;     ///< local row
  int64_t rows = 0;      ///< may be none
  int64_t position = 0;  ///< of its first row
  size_t half = 0;       ///< of the rank's chunks that it lies in: 0 the lower, 1 the upper one; 0 on a single rank
};

/// The rank's two chunks of the zigzag, or on a single rank the whole prompt; in local order.
std::vector<PrefillPart> prefill_parts(const SequencePartition& partition, int rank);

/// The same cut into pieces of at most `chunk` rows, a multiple of kGemmTileRows (0: uncut). Pieces of one part are of
/// about the same size, so that none has a few rows only, and begin at multiples of kGemmTileRows positions, so that a
/// row's bits do not depend on the cut. Parts without rows have no piece.
std::vector<PrefillPart> prefill_chunks(const SequencePartition& partition, int rank, int64_t chunk);

/// Rows of the largest piece of any rank's.
int64_t largest_chunk(const std::vector<PrefillPart>& chunks);

/// Rows of the slices whose terms tensor ranks sum one after the other in each layer of the prefill, once behind the
/// attention and once behind the MLP. `slice`: prefill_slice_rows().
std::vector<int64_t> prefill_sum_rows(const SequencePartition& partition, int rank, int64_t chunk, int64_t slice);

/// Rows that are embedded, and summed over the tensor ranks, at a time.
std::vector<int64_t> prefill_embed_rows(const SequencePartition& partition, int rank, int64_t chunk);

/// Throws InputError unless `chunk` is 0 or a positive multiple of kGemmTileRows.
void check_prefill_chunk(int64_t chunk);

}  // namespace restkv
