// The bytes that a prefill exchanges, by the formula of model/README.md.
#pragma once

#include <algorithm>

#include "dist/comm/collective.h"
#include "dist/comm/process_grid.h"
#include "model/prefill_chunks.h"
#include "model/transformer.h"

namespace restkv::testing {

/// The formula of model/README.md for a rank's PrefillReport::exchange_bytes.
inline int64_t exchange_bytes_by_formula(const ProcessGrid& grid, const ModelConfig& config, int64_t L,
                                         ContextPlan plan, Device device, DType sum_dtype, int64_t chunk = 0) {
  SequencePartition partition(L, grid.sequence_size());
  const int n = grid.sequence_size(), tensor = grid.tensor_size(), rank = grid.sequence_rank();
  const int64_t L_lc = partition.local_size(rank);
  int64_t sums = 0;
  for (const int64_t rows : prefill_sum_rows(partition, rank, chunk, prefill_slice_rows(device)))
    sums += 2 * collective::sent_by_all_reduce(tensor, rows * config.hidden * size_of(sum_dtype));
  const int64_t row = 2 * split_heads(config.Hq, config.Hkv, tensor, grid.tensor_rank()).kv.size() * config.d *
                      size_of(activation_dtype(device));
  int64_t rows = (n - 1) * L_lc;
  if (plan == ContextPlan::ring) rows = n == 1 ? 0 : L - partition.local_size((rank + 1) % n);
  int64_t embedding = 0;
  for (const int64_t embedded : prefill_embed_rows(partition, rank, chunk))
    embedding += collective::sent_by_all_reduce(tensor, embedded * config.hidden * 4);
  return embedding + config.layers * (sums + rows * row);
}

}  // namespace restkv::testing
