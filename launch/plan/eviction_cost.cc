#include "launch/plan/eviction_cost.h"

#include <algorithm>

#include "dist/comm/collective.h"
#include "kvcache/exchange_bytes.h"
#include "kvcache/policies/policy.h"
#include "kvcache/select/radix_select.h"

namespace restkv {
namespace {

constexpr int64_t kF32 = 4;

ShardPlan shard_of(const PlanInput& input, int rank) {
  int tensor = input.tensor_size();
  return make_shard_plan(input.model, input.sequence_size(), tensor, rank / tensor, rank % tensor, input.decode);
}

/// Query rows of the window, over this rank's heads.
int64_t window_rows(const PlanInput& input, const Shard& shard) {
  return shard.heads.Hq_lc() * input.config.cache.window;
}

PolicyExchanges exchanges(const PlanInput& input) {
  return find_policy(input.config.cache.policy).make(input.config.cache)->exchanges(input.config.cache);
}

/// Rows of scores that the selection works on.
int64_t scored_rows(const PlanInput& input, const Shard& shard) {
  return selection_rows(input.config.cache, shard.heads);
}

/// Rows of one layer's decode cache on a rank, before new tokens: `kept` per head.
int64_t decode_rows(const PlanInput& input, const ShardPlan& shard, int64_t kept) {
  bool per_query = input.config.cache.granularity == Granularity::query_head;
  const HeadLayout& heads = shard.decode.heads;
  return (per_query ? heads.Hq_lc() : heads.Hkv_lc()) * kept;
}

bool reshards(const PlanInput& input) { return input.decode == DecodeMode::tensor && input.sequence_size() > 1; }

/// Elements per row of a selection: a histogram, or on a GPU 4,096 listed candidates of 8 bytes.
int64_t selection_scratch(Device device) { return device == Device::gpu ? 4096 * 8 / kF32 : kKeyBins[0]; }

/// Elements of the arrays that the decision of one layer needs at once.
int64_t decision_scratch(const PlanInput& input, const Shard& held, int rank) {
  SequencePartition partition(input.L, input.sequence_size());
  const int64_t L_lc = partition.local_size(rank / input.tensor_size());
  bool many = input.sequence_size() > 1;
  int64_t Hq = held.heads.Hq_lc(), rows = window_rows(input, held);
  int64_t local_blocks = (L_lc + partition.block_size() - 1) / partition.block_size();
  int64_t blocks = local_blocks + (many ? partition.blocks() : 0);

  PolicyExchanges use = exchanges(input);
  int64_t statistics = 0, scores = 2 * scored_rows(input, held) * L_lc;
  if (use.softmax) {
    // The arrays beside the logits come and go; the largest counts.
    int64_t beside = std::max(blocks * rows * 2, blocks * Hq * use.output_rows * input.model.d);
    if (use.top_sets) beside = std::max(beside, rows * selection_scratch(input.device));
    if (use.past_scores) beside = std::max(beside, Hq * (input.L + L_lc) * (many ? 2 : 1));
    statistics = rows * (L_lc + 2) + 2 * Hq * L_lc + beside;
    scores += Hq * L_lc;
  }
  // Sums of 8 bytes over the whole prompt, and the queries' outputs and log-sum-exps beside them; of chunks also what
  // one of them adds.
  const int64_t queries = input.rows_at_once(rank), sums = input.config.prefill.chunk > 0 ? 4 : 2;
  if (use.column_sums) statistics += Hq * (sums * input.L + L_lc + queries) + Hq * input.model.d * queries;
  bool mean_over_layer = find_policy(input.config.cache.policy).unit == ScoreUnit::layer_mean;
  if (mean_over_layer && input.tensor_size() > 1) scores += held.heads.Hq * L_lc;  // those of all tensor ranks
  return std::max(statistics, scores + scored_rows(input, held) * selection_scratch(input.device));
}

}  // namespace

int64_t eviction_scratch_bytes(const PlanInput& input, const ShardPlan& shard, int rank) {
  int64_t decision = input.evicts() ? decision_scratch(input, shard.resident, rank) * kF32 : 0;
  // Packed, received and merged rows, of the layer that keeps most: the first.
  int64_t moving = reshards(input) ? 3 * decode_rows(input, shard, input.kept_in(0)) * 2 * input.model.d *
                                         device_sizes(input.device).kv
                                   : 0;
  return std::max(decision, moving);
}

int64_t eviction_sent_bytes(const PlanInput& input) {
  if (!input.evicts()) return 0;
  const CacheConfig& cache = input.config.cache;
  SequencePartition partition(input.L, input.sequence_size());
  int64_t sent = 0;
  for (int rank = 0; rank < input.ranks(); ++rank) {
    HeadLayout heads = shard_of(input, rank).resident.heads;
    int sequence_rank = rank / input.tensor_size();
    ExchangeBytes bytes =
        eviction_exchange_bytes(cache, heads, partition, sequence_rank, input.tensor_size(), {input.device});
    sent += bytes.sequence + bytes.tensor;
    if (!input.window_queries || sequence_rank > 0) continue;
    // The window's queries, once per sequence group: together its ranks hold them all.
    sent += collective::sent_by_all_gather(
        input.sequence_size(), cache.window * heads.Hq_lc() * heads.d * device_sizes(input.device).activation);
  }
  return sent;
}

int64_t reshard_sent_bytes(const PlanInput& input) {
  if (!reshards(input)) return 0;
  int n = input.sequence_size(), tensor = input.tensor_size();
  bool per_query = input.config.cache.granularity == Granularity::query_head;
  SequencePartition partition(input.L, n);
  int64_t row_bytes = 2 * input.model.d * device_sizes(input.device).kv + 8, sent = 0;  // K, V and the position
  for (int rank = 0; rank < input.ranks(); ++rank) {
    ShardPlan shard = shard_of(input, rank);
    const HeadLayout& held = shard.resident.heads;
    sent += collective::sent_by_all_gather(n, (per_query ? held.Hq_lc() : held.Hkv_lc()) * 8);  // the counts
    // Of the rows that this rank will decode, those that lie with the others.
    int64_t elsewhere = input.L - partition.local_size(rank / tensor);
    sent += decode_rows(input, shard, input.kept()) * elsewhere / std::max<int64_t>(1, input.L) * row_bytes;
  }
  return sent;
}

}  // namespace restkv
