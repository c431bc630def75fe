// What one prefill holds, for prefill*.cc alone.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "dist/base/phase_clock.h"
#include "model/host_residual.h"
#include "model/prefill_chunks.h"
#include "model/transformer.h"

namespace restkv {

/// A term of a sum over the tensor group on its way: added to x when the group's collective has ended.
struct PendingSum {
  MatrixView term;
  const Tensor* norm = nullptr;  ///< of the sum, before it is added; may be empty
  std::shared_ptr<void> ticket;
  Range rows;  ///< local rows of x
  bool pending = false;
};

struct Transformer::PrefillState {
  PrefillState(Transformer& model, int64_t L, const PrefillOptions& options);

  SequencePartition partition;
  int64_t L_lc;
  int64_t chunk;                    // most rows that are worked on at a time; 0: all of them
  std::vector<PrefillPart> parts;   // in local order; on several ranks the lower and the upper chunk
  std::vector<PrefillPart> chunks;  // prefill.chunk: what is worked on one after the other; else empty
  int64_t held;                     // rows that q and the like have: all, or those of the largest of `chunks`
  int64_t slice;                    // rows of one slice
  int64_t origin = 0;               // local row of row 0 of q, attended, lse and rope: of the current chunk
  PhaseClock clock;
  std::vector<int64_t> positions;  // [L_lc]
  Tensor position_ids;             // i64 [L_lc] the same on the device
  Tensor frequencies;              // f32 [d/2]
  Tensor rope;                     // [held, 2, d/2]
  Tensor x;                        // [L_lc, H] f32 the residual stream; of the current chunk where `residual` is
  int64_t x_origin = 0;            // local row of row 0 of x
  std::unique_ptr<HostResidual> residual;  // null: x is on the device
  Tensor q;                                // [held, Hq_lc d]
  Tensor attended;                    // [held, Hq_lc d] attention's output: takes the place of q where q is not needed
  Tensor lse;                         // [Hq_lc, rows] f32 of every query's scores, only where q stays
  Tensor column_sums;                 // i64 [Hq_lc, L] of the chunks so far, only where q stays and in chunks
  Tensor kv;                          // [2 L_lc, Hkv_lc d] one message of the ring: k, then v
  Tensor k, v;                        // [L_lc, Hkv_lc d] the two of them
  Tensor normed, gate_up, activated;  // one slice
  std::array<Tensor, 2> terms;        // one slice each, by turns: while one is summed the next is computed
  std::array<PendingSum, 2> sums;     // of the terms
  int next_sum = 0;

  // Queries of the last W positions, only for policies that read them.
  Tensor q_window;              // [W or L, Hq_lc d] in global order
  std::array<Tensor, 2> q_own;  // this rank's, of each half: copies, since attention overwrites q

  // All-gather: keys and values in global order (on one rank views of k and v).
  Tensor k_all, v_all;  // [L, Hkv_lc d]

  // Ring: chunks of other ranks by turns, and the attention of one block and of all so far.
  std::array<Tensor, 2> ring;   // [2 max L_lc, Hkv_lc d]
  Tensor block_out, block_lse;  // [rows of a call, Hq_lc d], [Hq_lc, rows of a call] f32
  Tensor total_out, total_lse;  // [L_lc, Hq_lc d] f32, [Hq_lc, L_lc] f32

  std::vector<int64_t> kv_offsets;
  Tensor local_counts;  // i64 [layers * cache heads of the model] rows this rank kept
  Tensor local_hash;    // u64 [1]
  int64_t reserve = 0;
  bool evicts = false;
  bool keeps_queries = false;  // q stays beside attention's output, with lse
  PrefillReport report;

  bool chunked() const { return chunk > 0; }
  MatrixView x_rows(int64_t first, int64_t rows) const {
    return MatrixView(x).block(first - x_origin, rows, 0, x.size(1));
  }
  // Of q, attended: local rows [first, first + rows), which lie in the current chunk.
  MatrixView held_rows(const Tensor& t, int64_t first, int64_t rows) const {
    return MatrixView(t).block(first - origin, rows, 0, t.size(1));
  }

 private:
  void allocate_window(const Transformer& model);
  void allocate_context(const Transformer& model);
};

/// Calls body(first, rows) for consecutive runs of at most `slice` of the rows [first, first + rows).
template <class Body>
void for_slices(int64_t first, int64_t rows, int64_t slice, const Body& body) {
  const int64_t end = first + rows;
  for (; first < end; first += slice) body(first, std::min(slice, end - first));
}

/// Bytes that `calls` sends within `group`, added to `sent`.
template <class Calls>
void count_sent(const Communicator& group, int64_t& sent, const Calls& calls) {
  const int64_t before = group.stats().bytes_sent;
  calls();
  sent += group.stats().bytes_sent - before;
}

}  // namespace restkv
