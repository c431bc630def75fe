// Exact distributed top-k: per row the k largest values over all sequence ranks, ties at the cut to the lowest global
// positions: the result has the same bits on every layout. Used by E4 (one row per window query) and E5 (one row per
// cache head). CPU ranks exchange integer histograms of the values' digits, and as many more as ties ask for. GPU ranks
// cannot let the host ask: each lists the k + 1 largest of its own values, and finds the cut among the lists of all
// (group_select.h).
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/mix.h"
#include "dist/comm/communicator.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// The value's place in the order of floats: larger float, larger key. -0 and +0 are equal; NaN sorts below all.
constexpr uint32_t order_key(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value + 0.0f);  // -0 + 0 = +0
  const uint32_t flip = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u;
  return value != value ? 0u : bits ^ flip;
}

/// Rows of values, distributed over the positions.
struct SelectRows {
  const float* values = nullptr;  ///< [rows, stride], this rank's positions in local order
  int64_t rows = 0;
  int64_t stride = 0;
  /// The positions that take part: over all ranks of the group they are [0, total), each once.
  const std::vector<Segment>* segments = nullptr;
  int64_t total = 0;  ///< below 2^31
  /// No rank has more of them; in groups of GPU ranks it says how long lists can get. 0: any rank may have all.
  int64_t most_local = 0;
};

/// What is in a row's top set: a value with a key above `key`, or equal to it at a global position below `tie_end`.
struct SelectCut {
  uint32_t key = 0;
  uint32_t tie_end = 0;
  RESTKV_HOST_DEVICE bool takes(uint32_t value_key, int64_t position) const {
    return value_key > key || (value_key == key && position < static_cast<int64_t>(tie_end));
  }
};

struct SelectResult {
  Tensor cuts;  ///< u32 [rows, 2]: a SelectCut per row, on the context's device
  Tensor tied;  ///< i32 [rows] 1 for a row with more ties at the cut than it needed: it took more exchanges
  const SelectCut* cut() const { return static_cast<const SelectCut*>(cuts.raw()); }
  /// How many rows are tied; waits for the device. 0 where nothing was selected.
  int64_t tied_rows(const Context& ctx) const;
};

/// The rows of top sets as index lists, on the context's device.
struct TopRows {
  Tensor rows;    ///< i32 [rows, capacity], the first counts[row] of each in use
  Tensor counts;  ///< i32 [rows]
};

/// Bins of the key passes: digits of 10, 8, 7 and 7 bits. The first takes sign, exponent and a bit of the mantissa,
/// which parts the values of a row well; together they send 6 KiB a row, a third of what three digits of 11, 11 and 10
/// bits do.
inline constexpr int64_t kKeyBins[4] = {1024, 256, 128, 128};

/// k: values per row, 0 <= k <= total. sums [rows] (i64 on the device) when not null: as top_set_sums() gives them, at
/// less cost. Collective over `group`: four all-reduces of i32 [rows, bins], and for tied rows one of [tied rows, 2048]
/// per 11 bits of total - 1. On a GPU: in stream order, without a wait; one all-gather of lists, see group_select.h.
SelectResult select_top(Context& ctx, Communicator& group, const SelectRows& input, int64_t k, int64_t* sums = nullptr);

/// The same with one count per row.
SelectResult select_top(Context& ctx, Communicator& group, const SelectRows& input, const std::vector<int64_t>& k);

/// The same with the counts on the context's device, u32 [rows]; none on any rank of the group is above `most`.
SelectResult select_top(Context& ctx, Communicator& group, const SelectRows& input, const Tensor& k, int64_t most);

namespace gpu {
struct RowState;  // gpu/row_state.h
}

/// Where an op that reads all values of a selection for its own purpose leaves what the selection has to know of them.
/// On a GPU; filled by window_attention().
struct CandidateLists {
  gpu::RowState* states = nullptr;  ///< [rows], with bounds
  uint64_t* candidates = nullptr;   ///< [rows, gpu::kCandidates]
  bool bounded = true;              ///< false: no row has values above its upper bound
};

/// Reads the values and fills the lists; null where the selection needs none.
using ReadValues = std::function<void(const CandidateLists*)>;

/// select_top() on a GPU for values that `read` reads anyway: the selection then does without a pass of its own. `read`
/// is called once, unless there are no rows. Positions are local indices: a group of one rank, one run of positions.
SelectResult select_top_beside(Context& ctx, Communicator& group, const SelectRows& input, int64_t k, int64_t* sums,
                               const ReadValues& read);

/// sums [rows] (i64): the sum of the global positions in the row's top set that this rank owns.
void top_set_sums(Context& ctx, const SelectRows& input, const SelectCut* cuts, int64_t* sums);

/// Local indices of the row's top set on this rank, ascending, and after them tail.begin .. tail.end - 1.
/// Precondition: no row has more than `capacity` of them all.
TopRows top_set_rows(Context& ctx, const SelectRows& input, const SelectCut* cuts, Range tail, int64_t capacity);

}  // namespace restkv
