#include "kvcache/exchange_bytes.h"

#include <algorithm>

#include "dist/comm/collective.h"
#include "kvcache/allocation.h"
#include "kvcache/head_budgets.h"
#include "kvcache/local_shard.h"
#include "kvcache/policies/policy.h"
#include "kvcache/scores/smoothing.h"
#include "kvcache/select/group_select.h"
#include "kvcache/statistics/exchange.h"

namespace restkv {
namespace {

// CPU ranks: histograms.
int64_t select_bytes(int ranks, int64_t rows) {
  int64_t bytes = 0;
  for (int64_t bins : kKeyBins)
    bytes += collective::sent_by_all_reduce(ranks, rows * bins * static_cast<int64_t>(sizeof(int32_t)));
  return bytes;
}

// GPU ranks: lists.
int64_t list_bytes(int ranks, int64_t rows, int64_t k, int64_t most_local) {
  return collective::sent_by_all_gather(
      ranks, rows * group_list_length(k, most_local) * static_cast<int64_t>(sizeof(uint64_t)));
}

// `elements` scores a row.
int64_t past_bytes(int ranks, int64_t rows, int64_t elements) {
  return collective::sent_by_all_gather(ranks, rows * elements * static_cast<int64_t>(sizeof(float)));
}

// Rows of scores that share a layer's budget.
int64_t budget_rows(const CacheConfig& config, const HeadLayout& heads) {
  const bool per_query =
      config.granularity == Granularity::query_head && find_policy(config.policy).unit == ScoreUnit::query_head;
  return per_query ? heads.Hq : heads.Hkv;
}

// The counts beside the cut through all heads, and the rows of scores of the other tensor ranks (head_budgets.h).
void add_head_budgets(const CacheConfig& config, const HeadLayout& heads, int ranks, int tensor_size, int64_t stride,
                      ExchangeBytes& bytes) {
  const int64_t rows = budget_rows(config, heads);
  const Range mine = owned_rows(heads, heads.local, /*per_query=*/rows == heads.Hq && heads.Hq != heads.Hkv);
  bytes.sequence += collective::sent_by_all_reduce(ranks, rows * static_cast<int64_t>(sizeof(CutCounts)));
  bytes.tensor +=
      collective::sent_by_all_gather(tensor_size, mine.size() * stride * static_cast<int64_t>(sizeof(float)));
}

// What differs between the devices: the top sets of the window rows, the scores of the past, and the last selection.
int64_t cpu_bytes(const PolicyExchanges& use, int ranks, int64_t window_rows, int64_t Hq_lc, int64_t past,
                  int64_t edges, int64_t selection, bool deals_to_heads) {
  const int64_t i64 = sizeof(int64_t);
  int64_t bytes = select_bytes(ranks, selection);
  if (deals_to_heads) bytes += select_bytes(ranks, 1);
  if (use.top_sets)
    bytes += select_bytes(ranks, window_rows) + collective::sent_by_all_reduce(ranks, window_rows * i64);
  if (use.past_scores) bytes += past_bytes(ranks, Hq_lc, edges > 0 ? kEdgeStrips * edges : past);
  return bytes;
}

// joined: rows that share the budget, where heads have their own; else 0. most: past tokens of any head.
int64_t gpu_bytes(const PolicyExchanges& use, const SequencePartition& partition, int64_t window_rows, int64_t Hq_lc,
                  int64_t P, int64_t k, int64_t edges, int64_t selection, int64_t joined, int64_t most_tokens) {
  const int ranks = partition.ranks();
  int64_t most = 0, most_past = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    most = std::max(most, partition.local_size(rank));
    most_past = std::max(most_past, past_count_of(partition, rank, P));
  }
  int64_t bytes = list_bytes(ranks, selection, most_tokens, most_past);
  if (joined > 0) bytes += list_bytes(ranks, 1, joined * k, joined * most_past);
  if (use.top_sets) bytes += list_bytes(ranks, window_rows, k, most);
  if (use.past_scores) bytes += past_bytes(ranks, Hq_lc, edges > 0 ? kEdgeStrips * edges : past_capacity(partition, P));
  return bytes;
}

}  // namespace

ExchangeBytes eviction_exchange_bytes(const CacheConfig& config, const HeadLayout& heads,
                                      const SequencePartition& partition, int sequence_rank, int tensor_size,
                                      const ExchangeLayer& where) {
  const PolicyEntry& entry = find_policy(config.policy);
  if (!entry.evicts) return {};
  const PolicyExchanges use = entry.make(config)->exchanges(config);
  const int ranks = partition.ranks();
  const int64_t f32 = sizeof(float), Hq_lc = heads.Hq_lc(), rows = Hq_lc * config.window;
  const LocalShard shard = make_local_shard(partition, sequence_rank, config.window);
  const int64_t blocks = static_cast<int64_t>(shard.blocks.size());
  ExchangeBytes bytes;
  if (use.softmax) bytes.sequence += collective::sent_by_all_gather(ranks, blocks * rows * 2 * f32);
  bytes.sequence += collective::sent_by_all_gather(ranks, blocks * Hq_lc * use.output_rows * heads.d * f32);
  const int64_t selection = selection_rows(config, heads);
  const int64_t reach = use.past_scores ? pooling_reach(config, shard.L) : 0;
  const int64_t edges = use.past_scores && edges_suffice(partition, shard.P, reach) ? reach : 0;
  if (where.device == Device::gpu) {
    int64_t k = layer_budget(config, shard.L, where.layer, where.layers) - config.window;
    if (where.layers > 1) {
      LayerKv layer;
      layer.layer = where.layer, layer.layers = where.layers, layer.partition = &partition;
      k = entry.make(config)->past_tokens(config, layer, k);
    }
    const int64_t joined = deals_to_heads(config.allocation) ? budget_rows(config, heads) : 0;
    const int64_t most = joined > 0 ? most_head_budget(joined, k, config.ada_floor, shard.P) : k;
    bytes.sequence += gpu_bytes(use, partition, rows, Hq_lc, shard.P, k, edges, selection, joined, most);
  } else {
    bytes.sequence +=
        cpu_bytes(use, ranks, rows, Hq_lc, shard.past_count(), edges, selection, deals_to_heads(config.allocation));
  }
  if (use.column_sums)
    bytes.sequence += collective::sent_by_all_reduce(ranks, Hq_lc * shard.L * static_cast<int64_t>(sizeof(int64_t)));
  const bool mean_over_group = entry.unit == ScoreUnit::query_head && config.granularity == Granularity::kv_head;
  if (entry.unit == ScoreUnit::layer_mean || (mean_over_group && heads.groups_are_split(tensor_size)))
    bytes.tensor += collective::sent_by_all_gather(tensor_size, Hq_lc * shard.stride * f32);
  if (deals_to_heads(config.allocation)) add_head_budgets(config, heads, ranks, tensor_size, shard.stride, bytes);
  return bytes;
}

}  // namespace restkv
