// Slots: with positions in the cache (Positions::cache) the position of a row is its place among the kept rows of its
// head, in the order of their positions in the text. Where one rank holds all rows of a head that is the row's index.
// Where rows are spread over ranks a cache made with slots holds them: numbered anew by number_slots() whenever rows
// were dropped, while a new row takes the slot behind all others, which every rank counts.
#pragma once

#include <vector>

#include "dist/comm/communicator.h"
#include "kvcache/kv_cache.h"

namespace restkv {

/// Numbers the rows of a layer over the ranks of `rows`, which hold other rows of the same heads. Positions of a head
/// ascend on each rank. Collective over `rows`; on GPU ranks in stream order, without a wait.
/// CPU ranks: an all-gather of the counts, and one of the positions.
/// GPU ranks: one all-gather of slot_message_bytes(). most: no rank holds more rows of a head; the same on all ranks.
void number_slots(Context& ctx, Communicator& rows, KvCache& cache, int64_t layer, int64_t most);

/// GPU ranks: bytes that a rank sends to each other one.
inline int64_t slot_message_bytes(int64_t heads, int64_t most) {
  return heads * (most + 1) * static_cast<int64_t>(sizeof(int32_t));
}

namespace gpu {  // slots_gpu.cu
/// message i32 [heads (most + 1)]: positions [heads, most], then lengths [heads].
void pack_positions(Context& ctx, const DeviceKvLayer& layer, int64_t heads, int64_t most, int32_t* message);
/// Slots and totals of this rank's rows from all ranks' messages, one after another.
void count_slots(Context& ctx, const int32_t* messages, int ranks, int64_t heads, int64_t most,
                 const DeviceKvLayer& layer);
}  // namespace gpu

}  // namespace restkv
