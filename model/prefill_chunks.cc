#include "model/prefill_chunks.h"

#include <algorithm>

#include "dist/base/error.h"
#include "dist/base/gemm.h"

namespace restkv {

std::vector<PrefillPart> prefill_parts(const SequencePartition& partition, int rank) {
  if (partition.ranks() == 1) return {{0, partition.length(), 0, 0}};
  const auto chunks = partition.chunks_of(rank);
  return {{0, chunks[0].size(), chunks[0].begin, 0}, {chunks[0].size(), chunks[1].size(), chunks[1].begin, 1}};
}

std::vector<PrefillPart> prefill_chunks(const SequencePartition& partition, int rank, int64_t chunk) {
  std::vector<PrefillPart> chunks;
  for (const PrefillPart& part : prefill_parts(partition, rank)) {
    if (part.rows == 0) continue;
    const int64_t pieces = chunk > 0 ? (part.rows + chunk - 1) / chunk : 1;
    const int64_t tiles = (part.rows + kGemmTileRows - 1) / kGemmTileRows;
    const int64_t rows = (tiles + pieces - 1) / pieces * kGemmTileRows;  // at most `chunk`, which is whole tiles
    for (int64_t at = 0; at < part.rows; at += rows)
      chunks.push_back({part.first + at, std::min(rows, part.rows - at), part.position + at, part.half});
  }
  return chunks;
}

int64_t largest_chunk(const std::vector<PrefillPart>& chunks) {
  int64_t rows = 0;
  for (const PrefillPart& chunk : chunks) rows = std::max(rows, chunk.rows);
  return rows;
}

std::vector<int64_t> prefill_embed_rows(const SequencePartition& partition, int rank, int64_t chunk) {
  if (chunk == 0) return {partition.local_size(rank)};
  std::vector<int64_t> rows;
  for (const PrefillPart& part : prefill_chunks(partition, rank, chunk)) rows.push_back(part.rows);
  return rows;
}

std::vector<int64_t> prefill_sum_rows(const SequencePartition& partition, int rank, int64_t chunk, int64_t slice) {
  std::vector<int64_t> rows;
  for (const int64_t run : prefill_embed_rows(partition, rank, chunk))
    for (int64_t at = 0; at < run; at += slice) rows.push_back(std::min(slice, run - at));
  return rows;
}

void check_prefill_chunk(int64_t chunk) {
  if (chunk < 0 || chunk % kGemmTileRows != 0)
    fail_input("prefill.chunk: found {}, expected 0 (the whole prompt at once) or a multiple of {} tokens", chunk,
               kGemmTileRows);
}

}  // namespace restkv
