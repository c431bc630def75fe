// One layer as global arrays, and its eviction on the ranks of a layout. Tests compare each rank's own part with the
// expected global result, so nothing has to be gathered.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "kvcache/evict.h"
#include "kvcache/output_factors.h"

namespace restkv::testing {

struct EvictionCase {
  std::string name;
  int64_t L = 0, Hq = 0, Hkv = 0, d = 0, layer = 0, layers = 1;
  int64_t block_size = 0;   ///< 0: the partition's own
  std::vector<float> q;     ///< [Hq, W, d]
  std::vector<float> k, v;  ///< [Hkv, L, d]
  /// Policies that read all queries: [Hq, L, d], and the log-sum-exp of their causal scores [Hq, L]; else empty.
  std::vector<float> q_all, lse;
  std::vector<float> wo;  ///< [hidden, Hq * d]; empty without output projection
  CacheConfig config;
  AttentionForm form = {};

  int64_t P() const { return L - config.window; }
  int64_t hidden() const { return static_cast<int64_t>(wo.size()) / (Hq * d); }
  SequencePartition partition(int ranks) const {
    return block_size > 0 ? SequencePartition(L, ranks, block_size) : SequencePartition(L, ranks);
  }
};

/// The part of the result that one rank holds, with global positions.
struct RankResult {
  std::vector<int64_t> head;               ///< model indices of the cache heads
  std::vector<std::vector<int64_t>> kept;  ///< [cache heads] global positions, window included
  std::vector<std::vector<float>> scores;  ///< [cache heads][owned past positions], ascending
  std::vector<int64_t> past;               ///< owned past positions, ascending
  Range q_heads;
  std::vector<int64_t> kernel, shift;  ///< [Hq_lc]
  int64_t tied_rows = 0;
  std::string error;  ///< of an InputError
};

/// The elements as a matrix on the context's device, rounded to `dtype` (f32 or bf16).
inline Tensor case_matrix(Context& ctx, const std::vector<float>& values, DType dtype, int64_t rows, int64_t cols) {
  if (dtype == DType::f32) return ctx.to_device(values.data(), dtype, {rows, cols});
  std::vector<bf16> half;
  half.reserve(values.size());
  for (float x : values) half.push_back(to_bf16(x));
  return ctx.to_device(half.data(), dtype, {rows, cols});
}

/// What PromptQueries views on one rank.
struct PromptTensors {
  Tensor q, k, lse;
};

inline PromptTensors prompt_tensors(Context& ctx, const EvictionCase& c, const HeadLayout& heads,
                                    const SequencePartition& partition, int rank, DType dtype) {
  const int64_t L_lc = partition.local_size(rank), Hq_lc = heads.Hq_lc(), Hkv_lc = heads.Hkv_lc(), d = c.d;
  std::vector<float> q(static_cast<size_t>(L_lc * Hq_lc * d)), k(static_cast<size_t>(c.L * Hkv_lc * d)),
      lse(static_cast<size_t>(Hq_lc * L_lc));
  for (int64_t i = 0; i < L_lc; ++i)
    for (int64_t h = 0; h < Hq_lc; ++h) {
      const int64_t at = (heads.local.q.begin + h) * c.L + partition.global_position(rank, i);
      std::copy_n(&c.q_all[static_cast<size_t>(at * d)], d, &q[static_cast<size_t>((i * Hq_lc + h) * d)]);
      lse[static_cast<size_t>(h * L_lc + i)] = c.lse[static_cast<size_t>(at)];
    }
  for (int64_t i = 0; i < c.L; ++i)
    for (int64_t g = 0; g < Hkv_lc; ++g)
      std::copy_n(&c.k[static_cast<size_t>(((heads.local.kv.begin + g) * c.L + i) * d)], d,
                  &k[static_cast<size_t>((i * Hkv_lc + g) * d)]);
  return {case_matrix(ctx, q, dtype, L_lc, Hq_lc * d), case_matrix(ctx, k, dtype, c.L, Hkv_lc * d),
          case_matrix(ctx, lse, DType::f32, Hq_lc, L_lc)};
}

/// On the context's device, with q, k, v and wo in `dtype`.
inline RankResult evict_case(Context& ctx, const EvictionCase& c, Communicator& sequence, Communicator& tensor,
                             DType dtype = DType::f32) {
  const int64_t W = c.config.window, d = c.d;
  HeadLayout heads{c.Hq, c.Hkv, d, split_heads(c.Hq, c.Hkv, tensor.size(), tensor.rank())};
  const int64_t Hq_lc = heads.Hq_lc(), Hkv_lc = heads.Hkv_lc();
  SequencePartition partition = c.partition(sequence.size());
  const int64_t L_lc = partition.local_size(sequence.rank());
  std::vector<float> q(W * Hq_lc * d), k(L_lc * Hkv_lc * d), v(k.size());
  for (int64_t w = 0; w < W; ++w)
    for (int64_t h = 0; h < Hq_lc; ++h)
      std::copy_n(&c.q[((heads.local.q.begin + h) * W + w) * d], d, &q[(w * Hq_lc + h) * d]);
  for (int64_t i = 0; i < L_lc; ++i)
    for (int64_t g = 0; g < Hkv_lc; ++g) {
      int64_t from = ((heads.local.kv.begin + g) * c.L + partition.global_position(sequence.rank(), i)) * d;
      std::copy_n(&c.k[from], d, &k[(i * Hkv_lc + g) * d]);
      std::copy_n(&c.v[from], d, &v[(i * Hkv_lc + g) * d]);
    }
  Tensor q_there = case_matrix(ctx, q, dtype, W, Hq_lc * d), k_there = case_matrix(ctx, k, dtype, L_lc, Hkv_lc * d),
         v_there = case_matrix(ctx, v, dtype, L_lc, Hkv_lc * d), r;
  if (!c.wo.empty()) {
    Tensor wo = case_matrix(ctx, c.wo, dtype, c.hidden(), c.Hq * d);
    r = output_factors(ctx, MatrixView(wo).block(0, c.hidden(), heads.local.q.begin * d, Hq_lc * d), Hq_lc, d);
  }
  RankResult result;
  result.q_heads = heads.local.q;
  Evictor evictor(ctx, sequence, tensor, heads, c.config);
  EvictTrace trace;
  LayerKv layer{c.layer,
                &partition,
                MatrixView(q_there),
                MatrixView(k_there),
                MatrixView(v_there),
                c.wo.empty() ? nullptr : r.data<float>(),
                c.layers};
  layer.form = c.form;
  PromptTensors prompt;
  if (!c.q_all.empty()) {
    prompt = prompt_tensors(ctx, c, heads, partition, sequence.rank(), dtype);
    layer.prompt = {MatrixView(prompt.q), MatrixView(prompt.k), prompt.lse.data<float>()};
  }
  KeptRows kept = evictor.evict(layer, &trace);
  result.head = kept.head;
  if (!kept.kernel.empty()) result.kernel = ctx.to_host<int64_t>(kept.kernel);
  if (!kept.shift.empty()) result.shift = ctx.to_host<int64_t>(kept.shift);
  result.tied_rows = trace.tied_rows;
  std::vector<int64_t> past_index;
  for (int64_t i = 0; i < L_lc; ++i)
    if (int64_t p = partition.global_position(sequence.rank(), i); p < c.P()) {
      past_index.push_back(i);
      result.past.push_back(p);
    }
  for (const auto& rows : kept.rows_to_host(ctx)) {
    if (kept.known >= 0) {
      EXPECT_EQ(static_cast<int64_t>(rows.size()), kept.known);
    }
    std::vector<int64_t> positions;
    for (int32_t row : rows) positions.push_back(partition.global_position(sequence.rank(), row));
    result.kept.push_back(positions);
  }
  const size_t score_rows = L_lc == 0 ? 0 : trace.scores.size() / static_cast<size_t>(L_lc);
  for (size_t row = 0; row < score_rows; ++row) {
    std::vector<float> scores;
    for (int64_t i : past_index)
      scores.push_back(trace.scores[row * static_cast<size_t>(L_lc) + static_cast<size_t>(i)]);
    result.scores.push_back(scores);
  }
  return result;
}

inline RankResult evict_case(const EvictionCase& c, Communicator& sequence, Communicator& tensor, int threads = 1) {
  Context ctx({Device::cpu, threads});
  return evict_case(ctx, c, sequence, tensor);
}

}  // namespace restkv::testing
