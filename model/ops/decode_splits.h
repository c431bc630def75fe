// How a head's cached rows are cut among thread blocks. The cut depends on the number of rows and on the heads of this
// rank alone, never on the batch: it fixes the order of all sums.
#pragma once

#include <cstdint>

#include "dist/base/mix.h"

namespace restkv {

/// Rows that a thread block works on at a time.
inline constexpr int kDecodeTile = 64;

/// The fewest tiles of a split: shorter ones cost more to merge than they gain.
inline constexpr int kMinSplitTiles = 2;

/// The most splits of one head: one for each of a Hopper GPU's 132 multiprocessors when a single sequence is decoded.
RESTKV_HOST_DEVICE constexpr int max_decode_splits(int64_t cache_heads) {
  int64_t splits = 132 / (cache_heads > 0 ? cache_heads : 1);
  return static_cast<int>(splits < 8 ? 8 : splits > 128 ? 128 : splits);
}

/// Rows of every split but the last: whole tiles.
RESTKV_HOST_DEVICE constexpr int decode_split_rows(int rows, int max_splits) {
  int tiles = rows / kDecodeTile + (rows % kDecodeTile != 0 ? 1 : 0);
  int per_split = (tiles + max_splits - 1) / max_splits;
  return (per_split > kMinSplitTiles ? per_split : kMinSplitTiles) * kDecodeTile;
}

}  // namespace restkv
