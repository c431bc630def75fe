#include "launch/plan/eviction_cost.h"

#include <algorithm>

#include "dist/comm/collective.h"
#include "kvcache/policies/policy.h"

namespace restkv {
namespace {

constexpr int64_t kF32 = 4;
constexpr int64_t kBins = 2048;  // of the widest pass of the radix select
constexpr int64_t kBinsOfAllPasses = 2048 + 2048 + 1024;

ShardPlan shard_of(const PlanInput& input, int rank) {
  int tensor = input.tensor_size();
  return make_shard_plan(input.model, input.sequence_size(), tensor, rank / tensor, rank % tensor, input.decode);
}

/// Query rows of the window, over this rank's heads.
int64_t window_rows(const PlanInput& input, const Shard& shard) {
  return shard.heads.Hq_lc() * input.config.cache.window;
}

/// Elements of an attention output per block: one row per head, or one per window query.
int64_t output_elements(const PlanInput& input, const Shard& shard) {
  if (!find_policy(input.config.cache.policy).needs_output_factors) return 0;
  bool after = input.config.cache.mode == ScoreMode::after;
  return (after ? shard.heads.Hq_lc() : window_rows(input, shard)) * input.model.d;
}

int64_t scored_rows(const PlanInput& input, const Shard& shard) {
  bool per_query = input.config.cache.granularity == Granularity::query_head && input.window_queries;
  return per_query ? shard.heads.Hq_lc() : shard.heads.Hkv_lc();
}

bool pools(const PlanInput& input) { return input.window_queries && input.config.cache.pooling != Pooling::none; }

bool adapts(const PlanInput& input) { return pools(input) && input.config.cache.pooling == Pooling::adaptive; }

/// Rows of one layer's decode cache on a rank, before new tokens.
int64_t decode_rows(const PlanInput& input, const ShardPlan& shard) {
  bool per_query = input.config.cache.granularity == Granularity::query_head;
  const HeadLayout& heads = shard.decode.heads;
  return (per_query ? heads.Hq_lc() : heads.Hkv_lc()) * input.kept();
}

bool reshards(const PlanInput& input) { return input.decode == DecodeMode::tensor && input.sequence_size() > 1; }

/// What the ranks of one sequence group send together; `shard` is the shard that they share.
int64_t decision_of_group(const PlanInput& input, const Shard& shard) {
  int n = input.sequence_size();
  int64_t blocks = SequencePartition(input.L, n).blocks(), P = input.L - input.config.cache.window;
  auto gathered = [&](int64_t elements) { return collective::sent_by_all_gather(n, elements * kF32); };
  auto reduced = [&](int64_t bytes) { return n * collective::sent_by_all_reduce(n, bytes); };
  auto selected = [&](int64_t rows) {
    return reduced(rows * kBins * kF32) * 2 + reduced(rows * (kBinsOfAllPasses - 2 * kBins) * kF32);
  };
  int64_t sent = selected(scored_rows(input, shard));
  if (!input.window_queries) return sent;
  int64_t rows = window_rows(input, shard);
  sent += gathered(rows * input.model.d);                         // the window's queries
  sent += gathered(blocks * rows * 2);                            // E1
  sent += gathered(blocks * output_elements(input, shard));       // E2
  if (adapts(input)) sent += selected(rows) + reduced(rows * 8);  // E4: the top sets and their mean positions
  if (pools(input)) sent += gathered(shard.heads.Hq_lc() * P);    // E4: the scores of the past
  return sent;
}

/// The group mean of a KV head whose query heads lie on several tensor ranks.
int64_t group_mean_exchange(const PlanInput& input) {
  int tensor = input.tensor_size();
  bool split = tensor > 1 && input.model.Hkv % tensor != 0;
  bool per_kv = input.config.cache.granularity == Granularity::kv_head;
  if (!split || !per_kv || !input.window_queries) return 0;
  return collective::sent_by_all_gather(tensor, input.model.Hq * input.L * kF32);
}

}  // namespace

int64_t eviction_scratch_bytes(const PlanInput& input, const ShardPlan& shard, int64_t L_lc) {
  const Shard& held = shard.resident;
  SequencePartition partition(input.L, input.sequence_size());
  bool many = input.sequence_size() > 1;
  int64_t Hq = held.heads.Hq_lc(), rows = window_rows(input, held);
  int64_t local_blocks = (L_lc + partition.block_size() - 1) / partition.block_size();
  int64_t blocks = local_blocks + (many ? partition.blocks() : 0);

  int64_t statistics = 0, scores = 2 * scored_rows(input, held) * L_lc;
  if (input.window_queries) {
    int64_t exchange =
        std::max({blocks * rows * 2, blocks * output_elements(input, held), adapts(input) ? rows * kBins : 0});
    if (pools(input)) exchange = std::max(exchange, Hq * input.L * (many ? 2 : 1) + Hq * L_lc * (many ? 2 : 1));
    statistics = rows * (L_lc + 2) + 2 * Hq * L_lc + exchange;
    scores += Hq * L_lc;
  }
  int64_t decision = std::max(statistics, scores + scored_rows(input, held) * kBins) * kF32;
  int64_t moving = reshards(input) ? 3 * decode_rows(input, shard) * 2 * input.model.d * kF32 : 0;
  return std::max(decision, moving);
}

int64_t eviction_sent_bytes(const PlanInput& input) {
  if (!input.evicts()) return 0;
  int64_t sent = group_mean_exchange(input);
  if (input.sequence_size() == 1) return sent;
  for (int t = 0; t < input.tensor_size(); ++t) sent += decision_of_group(input, shard_of(input, t).resident);
  return sent;
}

int64_t reshard_sent_bytes(const PlanInput& input) {
  if (!reshards(input)) return 0;
  int n = input.sequence_size(), tensor = input.tensor_size();
  bool per_query = input.config.cache.granularity == Granularity::query_head;
  SequencePartition partition(input.L, n);
  int64_t row_bytes = 2 * input.model.d * kF32 + 8, sent = 0;  // K, V and the position
  for (int rank = 0; rank < input.ranks(); ++rank) {
    ShardPlan shard = shard_of(input, rank);
    const HeadLayout& held = shard.resident.heads;
    sent += collective::sent_by_all_gather(n, (per_query ? held.Hq_lc() : held.Hkv_lc()) * 8);  // the counts
    // Of the rows that this rank will decode, those that lie with the others.
    int64_t elsewhere = input.L - partition.local_size(rank / tensor);
    sent += decode_rows(input, shard) * elsewhere / std::max<int64_t>(1, input.L) * row_bytes;
  }
  return sent;
}

}  // namespace restkv
