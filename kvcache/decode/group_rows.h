// Eviction while decoding where rows of a head are spread over GPU ranks (decode mode sequence). How many rows a rank
// holds follows from scores, so only the device knows; how many all ranks hold together follows from the schedule, and
// the host knows it. Messages are as long as a head may have rows on one rank at most. Internal to kvcache/decode.
#pragma once

#include <cstdint>

#include "dist/base/mix.h"
#include "kvcache/decode/device_rows.h"

namespace restkv {

/// What one rank tells the others of its rows, in i32 words: keys i64 [entries, most] where there are any, positions
/// [entries, most] ascending, counts [entries]; then to an even number of words.
struct GroupMessage {
  int64_t entries = 0;
  int64_t most = 0;  ///< no entry has more rows on one rank
  bool keys = false;
  RESTKV_HOST_DEVICE constexpr int64_t positions_at() const { return keys ? 2 * entries * most : 0; }
  RESTKV_HOST_DEVICE constexpr int64_t counts_at() const { return positions_at() + entries * most; }
  int64_t words() const { return (counts_at() + entries + 1) / 2 * 2; }
};

/// All ranks' messages, one after another.
struct GroupMessages {
  const int32_t* data = nullptr;  ///< device memory [ranks, stride]; null: a rule that needs none
  int ranks = 1, rank = 0;
  int64_t stride = 0;  ///< words of one rank: GroupMessage::words(), or more
  GroupMessage of;
  bool of_layer = false;  ///< one entry per layer, for all heads alike: its rows are the same
};

namespace gpu {

/// message = this rank's rows of the run, with the keys that cut.choice goes by (RowChoice::ladder: none). With
/// of_layer run.heads is 1: the first head speaks for the layer.
void pack_rows(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowCut& cut, const RowRun& run,
               const GroupMessage& shape, int32_t* message);

/// As cut_rows(), where `batch` has other rows of the same heads on other ranks: this rank's rows that stay. Sets the
/// records' excess and the layers' totals, where there are any; lists.slots where rows carry slots and the choice is by
/// position or ladder (elsewhere slots have to be numbered anew).
void cut_group_rows(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowCut& cut,
                    const RowRun& run, const GroupMessages& messages, const RowListsView& lists);

/// One layer of one member, for rules that look at K and V. message = GroupMessage (without keys) of `run`, and from
/// word `at` on k, then v, bf16 [run.heads, most, d].
void pack_kv(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run,
             const GroupMessage& shape, int64_t at, int32_t* message);
/// k, v bf16 [n, run.heads, d] = the rows of all ranks in the order of their positions; n: rows of each head.
void order_kv(Context& ctx, const GroupMessages& messages, int64_t heads, int64_t at, int64_t n, int64_t d, void* k,
              void* v);
/// lists of this rank's rows of the run: those whose place among the rows of all ranks is in kept [heads,
/// kept_capacity] ascending, of which counts [heads] are in use. Sets the record's excess.
void list_kept(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run,
               const GroupMessages& messages, const int32_t* kept, const int32_t* counts, int64_t kept_capacity,
               const RowListsView& lists);

}  // namespace gpu

}  // namespace restkv
