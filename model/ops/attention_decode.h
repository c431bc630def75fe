// Attention of one new token over a ragged cache, and the merge of partial results.
#pragma once

#include "dist/base/context.h"
#include "kvcache/kv_view.h"

namespace restkv {

struct DecodeAttention {
  const float* q = nullptr;       ///< [Hq_lc, d] rotated query
  const int64_t* head = nullptr;  ///< [Hq_lc] cache head of each query head
  int64_t Hq_lc = 0;
  double scale = 0.0;    ///< 1 / sqrt(d)
  float* out = nullptr;  ///< [Hq_lc, d] normalised output; zeros for a head without rows
  float* lse = nullptr;  ///< [Hq_lc] natural log of the sum of exp of the scaled scores; -inf without rows
};

/// Softmax in f32 over the rows of each head's cache; no mask: every row in the cache is visible.
void attention_decode(Context& ctx, const DecodeAttention& args, const KvView& kv);

/// Merges `parts` partial results of the same queries over disjoint keys: out [parts, Hq_lc, d], lse [parts, Hq_lc]
/// -> merged [Hq_lc, d]. Parts are folded in order. At least one part has rows.
void merge_partial_attention(Context& ctx, const float* out, const float* lse, int64_t parts, int64_t Hq_lc, int64_t d,
                             float* merged);

namespace cpu {
void attention_decode(Context& ctx, const DecodeAttention& args, const KvView& kv);
void merge_partial_attention(const float* out, const float* lse, int64_t parts, int64_t Hq_lc, int64_t d,
                             float* merged);
}  // namespace cpu

}  // namespace restkv
