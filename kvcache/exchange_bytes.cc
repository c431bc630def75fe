#include "kvcache/exchange_bytes.h"

#include "dist/comm/collective.h"
#include "kvcache/head_budgets.h"
#include "kvcache/local_shard.h"
#include "kvcache/policies/policy.h"
#include "kvcache/select/radix_select.h"

namespace restkv {
namespace {

int64_t select_bytes(int ranks, int64_t rows) {
  int64_t bytes = 0;
  for (int64_t bins : kKeyBins)
    bytes += collective::sent_by_all_reduce(ranks, rows * bins * static_cast<int64_t>(sizeof(int32_t)));
  return bytes;
}

// One cut through all heads, the counts beside it, and the rows of scores of the other tensor ranks (head_budgets.h).
void add_head_budgets(const CacheConfig& config, const HeadLayout& heads, int ranks, int tensor_size, int64_t stride,
                      ExchangeBytes& bytes) {
  const bool per_query =
      config.granularity == Granularity::query_head && find_policy(config.policy).unit == ScoreUnit::query_head;
  const int64_t rows = per_query ? heads.Hq : heads.Hkv;
  const Range mine = owned_rows(heads, heads.local, per_query);
  bytes.sequence += select_bytes(ranks, 1);
  bytes.sequence += collective::sent_by_all_reduce(ranks, rows * static_cast<int64_t>(sizeof(CutCounts)));
  bytes.tensor +=
      collective::sent_by_all_gather(tensor_size, mine.size() * stride * static_cast<int64_t>(sizeof(float)));
}

}  // namespace

ExchangeBytes eviction_exchange_bytes(const CacheConfig& config, const HeadLayout& heads,
                                      const SequencePartition& partition, int sequence_rank, int tensor_size) {
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
  if (use.top_sets)
    bytes.sequence +=
        select_bytes(ranks, rows) + collective::sent_by_all_reduce(ranks, rows * static_cast<int64_t>(sizeof(int64_t)));
  if (use.past_scores) bytes.sequence += collective::sent_by_all_gather(ranks, Hq_lc * shard.past_count() * f32);
  bytes.sequence += select_bytes(ranks, selection_rows(config, heads));
  const bool mean_over_group = entry.unit == ScoreUnit::query_head && config.granularity == Granularity::kv_head;
  if (entry.unit == ScoreUnit::layer_mean || (mean_over_group && heads.groups_are_split(tensor_size)))
    bytes.tensor += collective::sent_by_all_gather(tensor_size, Hq_lc * shard.stride * f32);
  if (deals_to_heads(config.allocation)) add_head_budgets(config, heads, ranks, tensor_size, shard.stride, bytes);
  return bytes;
}

}  // namespace restkv
