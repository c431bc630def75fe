// What ranks told each other of their rows, as kernels read it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kvcache/decode/group_rows.h"
#include "kvcache/decode/row_search.h"
#include "kvcache/gpu/position_search.h"

namespace restkv::gpu {

/// One head of one layer of one due member.
struct Place {
  int64_t member, slot, layer, head;
  int64_t of_layer;  // of [due, layers of the model]
  int64_t entry;     // of [due, run.layers, run.heads]

  __device__ Place(const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run, int64_t head_in_run,
                   int64_t member_and_layer) {
    member = member_and_layer / run.layers;
    slot = due.slot[member];
    layer = run.first_layer + member_and_layer % run.layers;
    head = run.first_head + head_in_run;
    of_layer = member * batch.layers + layer;
    entry = member_and_layer * run.heads + head_in_run;
  }
};

/// One entry of one rank's message.
struct EntryRows {
  const int64_t* keys;
  const int32_t* positions;
  int count;

  __device__ EntryRows(const GroupMessages& m, int rank, int64_t entry) {
    const int32_t* message = m.data + rank * m.stride;
    keys = reinterpret_cast<const int64_t*>(message) + entry * m.of.most;
    positions = message + m.of.positions_at() + entry * m.of.most;
    count = message[m.of.counts_at() + entry];
  }
};

/// The place of a row among the rows of all ranks.
__device__ inline int64_t place_of(const GroupMessages& m, int64_t entry, int32_t position) {
  int64_t place = 0;
  for (int r = 0; r < m.ranks; ++r) {
    const EntryRows rows(m, r, entry);
    place += count_below(rows.positions, rows.count, position);
  }
  return place;
}

/// Lists the rows [0, n) for which stays(row, slot) says so, which sets the slot that the row gets. Returns their
/// number.
template <class Stays>
__device__ int list_own(CutShared& s, int n, const RowListsView& lists, int64_t entry, Stays stays) {
  int listed = 0;
  for (int first = 0; first < n; first += kCutThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    int32_t slot = 0;
    const bool kept = i < n && stays(i, slot);
    int total = 0;
    const int at = listed + rank_in_block(kept, s.in_warp, total);
    listed += total;
    if (!kept || at >= lists.capacity) continue;
    lists.rows[entry * lists.capacity + at] = i;
    if (lists.slots != nullptr) lists.slots[entry * lists.capacity + at] = slot;
  }
  return min(listed, static_cast<int>(lists.capacity));
}

}  // namespace restkv::gpu
