// The kernels of eviction while decoding: they work on all layers and heads of the sequences of a batch at once,
// between two steps or at the end of one. A head's rows are in the order of their positions, on one rank (group_rows.h:
// on several). Lengths,
// positions and pointers are read on the device, so that what belongs to every step can be part of its graph. GPU
// ranks. Internal to kvcache/decode.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/gemm.h"
#include "dist/base/mix.h"
#include "kvcache/device_kv.h"
#include "kvcache/ladder.h"

namespace restkv {

/// What is remembered of one sequence, beside its cache. Device memory.
struct DeviceEvictRecord {
  void* ring = nullptr;  ///< bf16 [W, layers, heads * group, d] the last W queries, token t at t % W; null: not kept
  const int32_t* limits = nullptr;  ///< [layers, heads, 2] rows above which a head is cut, and rows that are then left
  /// [layers, heads] where rows of a head are spread over ranks: all ranks together have so many more than the position
  /// of the token to come (mostly fewer: below 0). Only a cut changes it. Else null.
  int32_t* excess = nullptr;
};

/// A batch, and what a step has left of it. All pointers are device memory.
struct DeviceEvictBatch {
  const DeviceKvLayer* layer = nullptr;       ///< [slots, layers]
  const DeviceEvictRecord* record = nullptr;  ///< [slots]
  const int32_t* position = nullptr;          ///< [slots] of the token of the step, until it is advanced
  const void* q = nullptr;                    ///< bf16 [layers, slots, heads * group, d] rotated queries of the step
  const float* lse = nullptr;                 ///< [layers, slots, heads * group] log-sum-exp of their scores
  int64_t slots = 0, layers = 0;
  int64_t heads = 0;  ///< cache heads of this rank; may be 0
  int64_t group = 0;  ///< query heads of a cache head
  int64_t d = 0;      ///< a multiple of 8 up to 256
  double scale = 0.0;
  /// [slots] 0: another rank appended the row of the step's token, until it is advanced; null: this rank did.
  const int32_t* owner = nullptr;
  int64_t first_counted = 0;  ///< cache heads before it are counted by another rank, in sums over all heads
};

/// The members of a batch that an eviction is for: their slots, by value.
struct DueSlots {
  static constexpr int kMost = 16;
  int32_t count = 0;
  int32_t slot[kMost] = {};
};

/// Which rows are kept first. All but position and ladder keep the last `window` rows in any case.
enum class RowChoice {
  position,      ///< the first `sinks` rows and the last ones
  ladder,        ///< those that a step of the ladder leaves
  layer_keys,    ///< the largest of `keys` [due, layers, stride], of all heads of a layer alike; ties: the lower row
  head_keys,     ///< the largest of `keys` [due, layers, heads, stride]
  sums,          ///< the largest DeviceKvLayer::sums
  random_draws,  ///< the largest draws of random_scores.h
};

struct RowCut {
  RowChoice choice = RowChoice::position;
  int64_t window = 0, sinks = 0;
  const int64_t* keys = nullptr;  ///< from 0 up
  int64_t stride = 0;
  uint64_t seed = 0;
  int64_t first_head = 0, heads_per_kv = 1;  ///< cache head h draws for KV head (first_head + h) / heads_per_kv
  LadderShape ladder;
  Ladder::Step step[DueSlots::kMost];  ///< of every due member
};

/// Layers and heads of every due member: entry (member, layer, head) of a run is of layers [first_layer, first_layer +
/// layers) and of heads [first_head, first_head + heads).
struct RowRun {
  int64_t first_layer = 0, layers = 0, first_head = 0, heads = 0;
};

/// Lists of rows that stay: entry (due member, layer, head) has rows [capacity] ascending, of which counts are in use;
/// -1: nothing changes.
struct RowListsView {
  int32_t* rows = nullptr;
  int32_t* counts = nullptr;
  int64_t capacity = 0;
  int32_t* slots = nullptr;  ///< laid out as rows: the slots that they get (slots.h); null: they keep theirs
};

/// A step's queries on their way between ranks that share KV heads: [layers, slots, heads, d] here, of which members
/// [0, count) go; a message has room for `most` heads.
struct StepQueries {
  int64_t layers = 0, slots = 0, count = 0, heads = 0, most = 0, d = 0;
  /// i32 words of a message: d bf16 and an f32 per head.
  RESTKV_HOST_DEVICE constexpr int64_t words() const { return layers * count * most * (d / 2 + 1); }
};

/// Which rank, and which of its heads, each head of a span comes from.
struct QuerySources {
  static constexpr int kMost = 256;
  int32_t count = 0;
  int16_t rank[kMost] = {}, head[kMost] = {};
};

namespace gpu {

/// message = the queries q bf16 and their log-sum-exps lse f32 [layers, slots, heads] of members [0, count).
void pack_queries(Context& ctx, const StepQueries& shape, const void* q, const float* lse, int32_t* message);
/// q bf16 [layers, slots, sources.count, d], lse f32 [layers, slots, sources.count] from all ranks' messages.
void unpack_queries(Context& ctx, const StepQueries& shape, const QuerySources& sources, const int32_t* messages,
                    void* q, float* lse);

/// The step's queries join the rings of members [0, count). Before the positions are advanced.
void keep_queries(Context& ctx, const DeviceEvictBatch& batch, int64_t count, int64_t window);

/// Adds the weights of the step's queries, exp(q . k * scale - lse) in units of column_sums.h over the group, to the
/// sums of all rows of members [0, count); the row at `length`, where the step appended one, begins with them. Before
/// the lengths are advanced.
void add_row_sums(Context& ctx, const DeviceEvictBatch& batch, int64_t count);

/// The same weights summed over all heads here that this rank counts: keys [due, layers, stride], overwritten. After
/// the lengths are advanced.
void sum_last_weights(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, int64_t* keys, int64_t stride);

/// keys [due, layers, heads, stride] = the order of minus the lengths of the keys. After the lengths are advanced.
void key_norm_keys(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, int64_t* keys, int64_t stride);

/// The rows that stay of every head that is above its limit. No head is left more than lists.capacity rows.
void cut_rows(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowCut& cut,
              const RowListsView& lists);

/// Drops all other rows in place, with their positions and sums, and sets the lengths.
void keep_rows(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run,
               const RowListsView& lists);

/// k, v bf16 [n, heads, d] = rows [0, n) of the heads from `first_head` on of *layer (device memory).
void gather_rows(Context& ctx, const DeviceKvLayer* layer, int64_t first_head, int64_t heads, int64_t n, int64_t d,
                 void* k, void* v);

/// After a prompt of L tokens. Columns [first, first + width) of q [rows, any] bf16, of the last positions, go to one
/// layer of a ring.
void begin_ring(Context& ctx, const MatrixView& q, int64_t first, int64_t width, int64_t L, int64_t window,
                int64_t layer, int64_t layers, void* ring);
/// Sums of a layer's rows: those of the group's query heads in column_sums [heads * group, L] at the row's position.
void begin_row_sums(Context& ctx, const DeviceKvLayer& layer, int64_t heads, int64_t group, int64_t L,
                    const int64_t* column_sums);

}  // namespace gpu

}  // namespace restkv
