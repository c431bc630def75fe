// What the ranks of a group exchange while they decode, in one kernel with what comes before and after it. On GPUs
// only, over peer memory (dist/comm/peer_memory.h): every rank writes its part into the memory of all others and folds
// what it got in rank order, so that all ranks have the same bits. Without peer memory the same results come from
// collectives of the group: all_reduce, then add_to_stream (decode_linear.h); all_gather, then merge_partial_attention
// (attention_decode.h).
//
// Collective over the group of `peers`: all ranks enqueue the same exchanges in the same order. Captured in a graph,
// every launch of the graph is one.
#pragma once

#include <vector>

#include "dist/comm/peer_memory.h"
#include "model/ops/decode_linear.h"

namespace restkv {

/// Words of one rank's message in sum_into_stream.
inline int64_t stream_sum_words(int64_t batch, int64_t H) {
  return batch * ((H + kSquareSumRows - 1) / kSquareSumRows) * kSquareSumRows;
}

/// stream.x += the sum of all ranks' `terms` [batch, H] f32 (in rank order), and the rest of the stream for the norm
/// with weight `norm` [H], as add_to_stream. With `replace` x becomes the sum; terms may then be stream.x itself.
/// Precondition: stream_sum_words(batch, H) <= peers.words.
void sum_into_stream(Context& ctx, const PeerView& peers, const Tensor& terms, const Tensor& norm,
                     const DecodeStream& stream, bool replace = false);

/// This rank's attention of the same queries over its own keys.
struct PartialExchange {
  const float* out = nullptr;   ///< [rows, d]
  const float* lse = nullptr;   ///< [rows]; -inf without keys
  int64_t rows = 0, d = 0;      ///< rows: batch times heads; d even
  void* merged_bf16 = nullptr;  ///< [rows, d] the attention over all ranks' keys, as merge_partial_attention
  float* merged_lse = nullptr;  ///< [rows] the log-sum-exp over all ranks' keys; may be null
};
inline int64_t partial_exchange_words(int64_t rows, int64_t d) { return rows * (d + 2); }
/// Precondition: partial_exchange_words(rows, d) <= peers.words.
void exchange_and_merge(Context& ctx, const PeerView& peers, const PartialExchange& args);

/// Slices of rows of `cols` f32, one of each rank, to whole rows on every rank.
struct ColumnExchange {
  MatrixView own;              ///< f32 [rows, columns[rank].size()]; may lie at its place in `out`
  std::vector<Range> columns;  ///< what each rank of the group has
  float* out = nullptr;        ///< [rows, cols]
  int64_t cols = 0;
};
/// Words of the longest slice.
int64_t column_exchange_words(const std::vector<Range>& columns, int64_t rows);
/// Precondition: column_exchange_words(columns, rows) <= peers.words.
void exchange_columns(Context& ctx, const PeerView& peers, const ColumnExchange& args);

/// From what a gather of column slices leaves to whole rows: parts holds [rows, columns[p].size()] f32 of part after
/// part; out [rows, cols] gets part p at columns[p]. CPU ranks too.
void join_columns(Context& ctx, const float* parts, const std::vector<Range>& columns, int64_t rows, float* out,
                  int64_t cols);

namespace gpu {
void sum_into_stream(Context& ctx, const PeerView& peers, const Tensor& terms, const Tensor& norm,
                     const DecodeStream& stream, bool replace);
void exchange_and_merge(Context& ctx, const PeerView& peers, const PartialExchange& args);
void exchange_columns(Context& ctx, const PeerView& peers, const ColumnExchange& args);
/// out [rows, cols] from its column `first` on = part [rows, width].
void place_columns(Context& ctx, const float* part, int64_t width, int64_t rows, float* out, int64_t cols,
                   int64_t first);
}  // namespace gpu

}  // namespace restkv
