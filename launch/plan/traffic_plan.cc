#include "launch/plan/traffic_plan.h"

#include <algorithm>

#include "dist/comm/collective.h"
#include "launch/plan/eviction_cost.h"
#include "model/prefill_chunks.h"

namespace restkv {
namespace {

constexpr int64_t kF32 = 4;

/// Sent by all ranks of one tensor group for the sums of one layer, at the positions of a sequence rank.
int64_t layer_sums(const PlanInput& input, const SequencePartition& partition, int sequence_rank) {
  int n = input.tensor_size();
  int64_t sent = 0;
  const DeviceSizes size = device_sizes(input.device);
  for (const int64_t rows : prefill_sum_rows(partition, sequence_rank, input.config.prefill.chunk, size.slice_rows))
    sent += 2 * n * collective::sent_by_all_reduce(n, rows * input.model.hidden * size.sum);  // output and MLP
  return sent;
}

int64_t prefill_layer_bytes(const PlanInput& input) {
  const ModelConfig& m = input.model;
  int sequence = input.sequence_size(), tensor = input.tensor_size();
  SequencePartition partition(input.L, sequence);
  int64_t per_layer = 0;
  for (int s = 0; s < sequence; ++s) per_layer += layer_sums(input, partition, s);
  for (int t = 0; t < tensor; ++t) {  // the ring moves as much as the all-gather
    int64_t kv = split_heads(m.Hq, m.Hkv, tensor, t).kv.size() * m.d;
    per_layer += 2 * collective::sent_by_all_gather(sequence, input.L * kv * device_sizes(input.device).kv);
  }
  return per_layer;
}

int64_t prefill_bytes(const PlanInput& input) {
  const int sequence = input.sequence_size(), tensor = input.tensor_size();
  const SequencePartition partition(input.L, sequence);
  int64_t embedding = 0;
  for (int s = 0; s < sequence; ++s)
    for (const int64_t rows : prefill_embed_rows(partition, s, input.config.prefill.chunk))
      embedding += tensor * collective::sent_by_all_reduce(tensor, rows * input.model.hidden * kF32);
  return embedding + input.model.layers * prefill_layer_bytes(input);
}

int64_t decode_bytes(const PlanInput& input) {
  const ModelConfig& m = input.model;
  int sequence = input.sequence_size(), tensor = input.tensor_size(), world = input.ranks();
  bool by_tensor = input.decode == DecodeMode::tensor;
  int group = by_tensor ? world : tensor;  // who shares one token's matrix products
  int64_t row = m.hidden * kF32;
  int64_t sent = world * collective::sent_by_all_reduce(tensor, row);  // the embedding
  sent += m.layers * 2 * world * collective::sent_by_all_reduce(group, row);
  sent += world / group * collective::sent_by_all_gather(group, m.vocab * kF32);
  sent += collective::sent_by_broadcast(world, 2 * 4, true);  // the token and whether to stop
  if (!by_tensor)
    for (int t = 0; t < tensor; ++t) {
      int64_t Hq = split_heads(m.Hq, m.Hkv, tensor, t).q.size();
      sent += m.layers * sequence * collective::sent_by_all_gather(sequence, Hq * (m.d + 1) * kF32);
    }
  return sent;
}

}  // namespace

TrafficPlan plan_traffic(const PlanInput& input) {
  TrafficPlan plan;
  plan.prefill = prefill_bytes(input);
  plan.prefill_layer = prefill_layer_bytes(input);
  plan.evict = input.model.layers * eviction_sent_bytes(input);
  plan.reshard = input.model.layers * reshard_sent_bytes(input);
  plan.decode_per_token = decode_bytes(input);
  return plan;
}

}  // namespace restkv
