// The top-k of a group of GPU ranks in one exchange: every rank lists the k + 1 largest of its own values (or all,
// where it has fewer) with their global positions; the lists are all-gathered, and every rank finds the k-th largest
// among them. The k largest of all are in the lists, and so is one value more of each rank: a tie at the cut shows
// itself. The lists have a length that the host knows, whatever the values: no histogram, no overflow, no word from the
// device.
#pragma once

#include <memory>

#include "kvcache/select/radix_select.h"

namespace restkv {

/// Bytes of all ranks' lists up to which they are gathered at once; longer ones go in runs of rows.
inline constexpr int64_t kGatheredListBytes = int64_t{256} << 20;

/// Entries (u64) of one row's list: min(k + 1, most_local). With k >= 1.
int64_t group_list_length(int64_t k, int64_t most_local);

/// A selection that was begun. Keeps what the exchange reads and writes.
struct GroupSelect {
  int64_t rows = 0;
  int64_t k = 0;
  int64_t length = 0;  ///< of a list
  Tensor local;        ///< u64 [rows, length]
  Tensor gathered;     ///< u64 [ranks, rows, length]; empty: not gathered yet
  std::shared_ptr<void> ticket;
};

/// Lists this rank's values, and begins the exchange; with `beside` it runs beside what is enqueued next (where lists
/// are so long that they go in several runs, it is left to finish_group_select()). read: as for select_top_beside(),
/// called once, or null. Collective over `group`, of GPU ranks. Preconditions: 0 <= k <= input.total;
/// input.most_local is that of the ranks.
GroupSelect begin_group_select(Context& ctx, Communicator& group, const SelectRows& input, int64_t k, bool beside,
                               const ReadValues& read = nullptr);

/// The cuts. sums [rows] (i64 on the device), when not null: the sums of the positions in the top sets, over all ranks.
/// k_of_row u32 [rows] on the device: each row's own count, at most k; null: k. Collective.
SelectResult finish_group_select(Context& ctx, Communicator& group, GroupSelect begun, int64_t* sums,
                                 const uint32_t* k_of_row = nullptr);

}  // namespace restkv
