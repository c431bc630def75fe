// The attention that every position gets from the whole prompt: column sums of the causal softmax (H2O, NeurIPS 2023).
// A second pass over Q K^T in tiles, with the log-sum-exps that the attention left: no row of weights is ever stored.
#pragma once

#include "dist/base/gemm.h"
#include "kvcache/evict.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// Sums are integers in units of 2^-40: adding them is exact, in any order, so that tiles and ranks may add theirs as
/// they come. A column of 2^20 rows of weight 1 fits.
inline constexpr int kColumnSumBits = 40;
RESTKV_HOST_DEVICE constexpr int64_t column_sum_of(float weights) {
  const double scaled = static_cast<double>(weights) * static_cast<double>(int64_t{1} << kColumnSumBits);
  const auto whole = static_cast<int64_t>(scaled);
  return whole + (scaled - static_cast<double>(whole) >= 0.5 ? 1 : 0);
}
RESTKV_HOST_DEVICE constexpr float column_sum_value(int64_t sum) {
  return static_cast<float>(static_cast<double>(sum) / static_cast<double>(int64_t{1} << kColumnSumBits));
}

/// sums [Hq_lc, shard.L] (i64): over this rank's queries w at or behind position i, exp(q_w,h . k_i / sqrt(d) - lse),
/// at most 32 consecutive rows added in f32, then in units of 2^-kColumnSumBits.
///   prompt.q [L_lc, Hq_lc * d], prompt.k [L, Hkv_lc * d], prompt.lse [Hq_lc, L_lc] (-inf: the row has no weights)
void column_sums(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const PromptQueries& prompt,
                 int64_t* sums);

/// The same over the queries of all ranks, i64 [Hq_lc, L]. Collective over `sequence`.
Tensor prompt_column_sums(Context& ctx, Communicator& sequence, const HeadLayout& heads,
                          const SequencePartition& partition, const PromptQueries& prompt);

/// scores [Hq_lc, shard.stride] (f32): the sums at the local positions.
void column_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const int64_t* sums, float* scores);

namespace cpu {  // column_sums_cpu.cc
void column_sums(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const float* q, const float* k,
                 const float* lse, int64_t* sums);
}

namespace gpu {  // column_sums_gpu.cu: bf16 on tensor cores for d of 64, 128 and 256; else, and f32, without
void column_sums(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const PromptQueries& prompt,
                 int64_t* sums);
void column_scores(Context& ctx, const HeadLayout& heads, const LocalShard& shard, const int64_t* sums, float* scores);
}  // namespace gpu

}  // namespace restkv
