// Attention of one new token per sequence over ragged caches, the merge of partial results, and the end of a step.
#pragma once

#include <vector>

#include "dist/base/context.h"
#include "dist/base/gemm.h"
#include "kvcache/device_kv.h"
#include "kvcache/kv_view.h"

namespace restkv {

struct DecodeAttention {
  const float* q = nullptr;       ///< [Hq_lc, d] rotated query
  const int64_t* head = nullptr;  ///< [Hq_lc] cache head of each query head
  int64_t Hq_lc = 0;
  double scale = 0.0;    ///< 1 / sqrt(d)
  float* out = nullptr;  ///< [Hq_lc, d] normalised output; zeros for a head without rows
  float* lse = nullptr;  ///< [Hq_lc] natural log of the sum of exp of the scaled scores; -inf without rows
  /// Rows at positions before it are not attended (sliding windows; needs KvView::positions); 0: all are.
  int64_t first_position = 0;
  double softcap = 0.0;  ///< as in PrefillAttention
};

/// CPU ranks, one sequence. Softmax in f32 over the rows of each head's cache.
void attention_decode(Context& ctx, const DecodeAttention& args, const KvView& kv);

/// Where a rank's cache heads take their queries and new rows from.
struct DecodeHeads {
  std::vector<int64_t> head;    ///< [Hq_lc] cache head of each query head; ascending, every cache head has 1 to 16
  std::vector<int64_t> source;  ///< [cache heads] KV head of this rank whose new row the cache head gets

  int64_t Hq_lc() const { return static_cast<int64_t>(head.size()); }
  int64_t cache_heads() const { return static_cast<int64_t>(source.size()); }
};

/// One layer of a batch, on a GPU. Nothing that changes from step to step is known to the host, so that a step can be
/// captured once and replayed while the caches grow. All pointers are device memory.
struct BatchDecodeAttention {
  MatrixView q;                          ///< bf16 [batch, Hq_lc d] rotated
  MatrixView k, v;                       ///< bf16 [batch, Hkv_lc d] the new token's rows; k rotated
  const int32_t* position = nullptr;     ///< [batch] global position of the new token
  const int32_t* owner = nullptr;        ///< [batch] 0: another rank keeps the new token; null: this rank keeps all
  const DeviceKvLayer* layer = nullptr;  ///< sequence b's cache is layer[b * layer_stride]; an empty place in the batch
                                         ///< has a record of null pointers
  int64_t layer_stride = 0;
  int64_t d = 0;
  double scale = 0.0;  ///< 1 / sqrt(d)
  /// Rows at positions up to position - sliding_window are not attended; 0: all are. A head's positions ascend.
  int64_t sliding_window = 0;
  double softcap = 0.0;  ///< as in PrefillAttention
  /// Records, lengths and cached rows were complete before the kernel before this one was enqueued (true in a graph of
  /// one step): they are then fetched while that one still runs.
  bool settled = false;
  /// How the launch fills the GPU; 0: chosen by the batch. Neither changes a bit of the result.
  int64_t blocks_per_head = 0;  ///< thread blocks per cache head
  int64_t depth = 0;            ///< 1 to 3: little to much shared memory for rows on their way

  MatrixView out;            ///< bf16 [batch, Hq_lc d] normalised output, zeros without rows; data may be null
  float* out_f32 = nullptr;  ///< [batch, Hq_lc, d] the same; may be null
  float* lse = nullptr;      ///< [batch, Hq_lc] as in DecodeAttention; may be null
};

inline constexpr int64_t kMaxAttentionBatch = 64;
inline constexpr int64_t kMaxDecodeGroup = 16;  ///< query heads of one cache head
inline constexpr int64_t kMaxCacheHeads = 128;  ///< of one layer on one rank

/// Scratch of attention_decode_batch for batches up to `batch`, zeroed; for one stream. Launches that run one after
/// another share it.
Tensor decode_attention_scratch(Context& ctx, int64_t batch, const DecodeHeads& heads, int64_t d);

/// GPU ranks. Attends the `length` rows of each head's cache and, where this rank is the owner, the new token's row,
/// which is also written to the cache at row `length`; lengths stay (advance_decode). Precondition: there is room.
/// d is a multiple of 8 up to 256, batch at most kMaxAttentionBatch. Scores, softmax and sums in f32; the bits of a
/// sequence's result do not depend on the batch. Never waits or allocates.
void attention_decode_batch(Context& ctx, const BatchDecodeAttention& args, const DecodeHeads& heads,
                            const Tensor& scratch);

/// What changes from one step of a batch to the next, on a GPU.
struct DecodeAdvance {
  const DeviceKvLayer* layer = nullptr;  ///< [batch, layers]
  int64_t batch = 0, layers = 0, cache_heads = 0;
  int32_t* position = nullptr;  ///< [batch] of the token just attended
  int32_t* step = nullptr;      ///< [batch] tokens sampled so far; may be null
  int32_t* owner = nullptr;     ///< [batch] as in BatchDecodeAttention; may be null
  /// [batch] with `owner`: the prompts' lengths. New token i (from 0) belongs to sequence rank i % ranks, and owner[b]
  /// becomes whether the next one is this rank's.
  const int32_t* prompt_tokens = nullptr;
  int sequence_ranks = 1, sequence_rank = 0;
};

/// GPU ranks: raises the lengths of all heads and layers by one where this rank was the owner, totals (slots.h) on
/// every rank, and positions and steps.
void advance_decode(Context& ctx, const DecodeAdvance& args);

/// Merges `parts` partial results of the same queries over disjoint keys: out [parts, Hq_lc, d], lse [parts, Hq_lc]
/// -> merged [Hq_lc, d]. Parts are folded in order. At least one part has rows.
void merge_partial_attention(Context& ctx, const float* out, const float* lse, int64_t parts, int64_t Hq_lc, int64_t d,
                             float* merged);

/// The same on a GPU for `rows` queries (batch times heads), from the layout that an all-gather leaves.
struct PartialMerge {
  const float* out = nullptr;  ///< part p: [rows, d] from out + p * out_stride
  const float* lse = nullptr;  ///< part p: [rows] from lse + p * lse_stride
  int64_t parts = 0, out_stride = 0, lse_stride = 0;
  int64_t rows = 0, d = 0;
  float* merged = nullptr;      ///< [rows, d]; may be null. Zeros where no part has rows
  void* merged_bf16 = nullptr;  ///< bf16 [rows, d]; may be null
  float* merged_lse = nullptr;  ///< [rows] log-sum-exp over all parts, -inf without rows; may be null
};
void merge_partial_attention(Context& ctx, const PartialMerge& args);

namespace cpu {
void attention_decode(Context& ctx, const DecodeAttention& args, const KvView& kv);
void merge_partial_attention(const float* out, const float* lse, int64_t parts, int64_t Hq_lc, int64_t d,
                             float* merged);
}  // namespace cpu

namespace gpu {
void attention_decode_batch(Context& ctx, const BatchDecodeAttention& args, const DecodeHeads& heads,
                            const Tensor& scratch);
void advance_decode(Context& ctx, const DecodeAdvance& args);
void merge_partial_attention(Context& ctx, const PartialMerge& args);
}  // namespace gpu

}  // namespace restkv
