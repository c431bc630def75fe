#include "launch/plan/memory_plan.h"

#include <algorithm>
#include <vector>

#include "dist/base/error.h"
#include "kvcache/allocation.h"
#include "kvcache/evict.h"
#include "kvcache/policies/policy.h"
#include "launch/plan/eviction_cost.h"
#include "launch/results/record.h"
#include "model/ops/attention_prefill.h"
#include "model/ops/decode_linear.h"
#include "model/ops/decode_splits.h"
#include "model/prefill_chunks.h"
#include "model/transformer.h"

namespace restkv {
namespace {

constexpr int64_t kF32 = 4;

ShardPlan shard_of(const PlanInput& input, int rank) {
  int tensor = input.tensor_size();
  return make_shard_plan(input.model, input.sequence_size(), tensor, rank / tensor, rank % tensor, input.decode);
}

/// Rows of the sequence rank that has most.
int64_t most_rows(const PlanInput& input) {
  SequencePartition partition(input.L, input.sequence_size());
  int64_t most = 0;
  for (int r = 0; r < input.sequence_size(); ++r) most = std::max(most, partition.local_size(r));
  return most;
}

/// Elements times the bytes in which this matrix is held.
int64_t matrix_bytes(const PlanInput& input, const std::string& name, int64_t elements) {
  std::optional<DType> dtype = device_sizes(input.device).matrices;
  if (!dtype) dtype = weight_dtype(input.config.model.dtype);
  return elements * size_of(dtype ? *dtype : input.weights->natural_dtype(name));
}

int64_t weight_bytes(const PlanInput& input, const Shard& shard) {
  const ModelConfig& m = input.model;
  int64_t q = shard.heads.Hq_lc() * m.d, kv = shard.heads.Hkv_lc() * m.d, mlp = shard.mlp.size();
  int64_t vocabulary = shard.vocab.size() * m.hidden;
  int64_t total = m.hidden * kF32 + matrix_bytes(input, "model.embed_tokens.weight", vocabulary);
  if (!m.tied_embeddings) total += matrix_bytes(input, "lm_head.weight", vocabulary);
  for (int64_t layer = 0; layer < m.layers; ++layer) {
    auto bytes = [&](const char* name, int64_t elements) {
      return matrix_bytes(input, fmt::format("model.layers.{}.{}.weight", layer, name), elements);
    };
    total += (m.traits.output_norms ? 4 : 2) * m.hidden * kF32;
    if (m.traits.attention_bias) total += (q + 2 * kv) * kF32;
    total += bytes("self_attn.q_proj", (q + 2 * kv) * m.hidden) + bytes("self_attn.o_proj", q * m.hidden);
    total += bytes("mlp.gate_proj", 2 * mlp * m.hidden) + bytes("mlp.down_proj", mlp * m.hidden);
  }
  return total;
}

/// Rows that decoding and retention hold on this rank: K, V and the position.
int64_t cache_bytes(const PlanInput& input, const ShardPlan& shard, int64_t L_lc) {
  bool per_query = input.config.cache.granularity == Granularity::query_head;
  const HeadLayout& heads = shard.decode.heads;
  int64_t cache_heads = per_query ? heads.Hq_lc() : heads.Hkv_lc();
  int64_t rows = 0, reserve = input.new_tokens;
  if (input.decode == DecodeMode::sequence) reserve = (reserve + input.sequence_size() - 1) / input.sequence_size();
  for (int64_t layer = 0; layer < input.model.layers; ++layer) {
    int64_t kept = input.kept_in(layer);
    // Kept rows stay where they lay; that a rank's share follows its share of the prompt is an expectation.
    if (input.decode == DecodeMode::sequence)
      kept = input.evicts() ? (kept * L_lc + input.L - 1) / std::max<int64_t>(1, input.L) : L_lc;
    // Eviction while decoding bounds what new tokens add.
    const DecodeSchedule& decode = input.config.cache.decode;
    if (decode.every > 0) reserve = std::min(reserve, std::max({kept, decode.trigger, decode.target}) + decode.every);
    rows += kept + reserve;
  }
  const auto index = static_cast<int64_t>(sizeof(int32_t));
  const CacheConfig& cache = input.config.cache;
  const bool slots = cache.re_indexes() && input.decode == DecodeMode::sequence && input.sequence_size() > 1;
  int64_t row_bytes = 2 * input.model.d * device_sizes(input.device).kv + index + (slots ? index : 0);
  // What eviction while decoding remembers on a GPU: a sum per row, or the last queries.
  const bool remembers = cache.decode.every > 0 && input.device == Device::gpu;
  if (remembers && cache.policy == "h2o") row_bytes += static_cast<int64_t>(sizeof(int64_t));
  int64_t queries = 0;
  if (remembers && (cache.policy == "restkv" || cache.policy == "snapkv"))
    queries = cache.window * input.model.layers * (per_query ? cache_heads : cache_heads * heads.group()) *
              input.model.d * device_sizes(input.device).kv;
  return (input.batch + input.held) * (cache_heads * rows * row_bytes + queries);
}

/// Positions in the cache: keys of a layer turned by their slots, while decoding (CPU ranks: of one prompt at a time).
int64_t rotated_keys_bytes(const PlanInput& input, int64_t cache_bytes) {
  if (!input.config.cache.re_indexes()) return 0;
  // The largest layer's share of the cache's keys; budgets of layers differ by a factor of two at most from the mean.
  const int64_t layers = deals_to_layers(input.config.cache.allocation) ? 2 : 1;
  const int64_t at_once = input.device == Device::gpu ? input.batch : 1;
  return layers * cache_bytes * at_once / (input.batch + input.held) / (2 * input.model.layers);
}

/// GPUs: what a step of the batch needs beside the cache that grows with it: logits of the vocabulary (and, of several
/// ranks, what comes from the others), the splits of attention, and results of products that cuBLASLt multiplies.
int64_t step_bytes(const PlanInput& input, const Shard& decode) {
  if (input.device == Device::cpu) return 0;
  const bool per_query = input.config.cache.granularity == Granularity::query_head;
  const int64_t Hq = decode.heads.Hq_lc(), cache_heads = per_query ? Hq : decode.heads.Hkv_lc();
  int64_t row = input.model.vocab * kF32;
  if (input.ranks() > 1 && input.batch > 1) row += (input.model.vocab + decode.vocab.size()) * kF32;
  row += Hq * max_decode_splits(cache_heads) * (input.model.d + 2) * kF32;
  if (input.batch > kStreamedBatch)
    row +=
        std::max({input.model.hidden, (Hq + 2 * decode.heads.Hkv_lc()) * input.model.d, 2 * decode.mlp.size()}) * kF32;
  return input.batch * row;
}

}  // namespace

DeviceSizes device_sizes(Device device) {
  int64_t element = size_of(activation_dtype(device));
  std::optional<DType> matrices;
  if (device == Device::gpu) matrices = DType::bf16;
  return {element, size_of(prefill_sum_dtype(device)), element, matrices, prefill_slice_rows(device)};
}

bool PlanInput::evicts() const { return find_policy(config.cache.policy).evicts && L > config.cache.budget.resolve(L); }

int64_t PlanInput::kept() const { return evicts() ? config.cache.budget.resolve(L) : L; }

int64_t PlanInput::kept_in(int64_t layer) const {
  // Plans are made before a budget that is too small is refused.
  if (!evicts() || kept() < config.cache.least_budget()) return kept();
  return layer_budget(config.cache, L, layer, model.layers);
}

int64_t PlanInput::rows_at_once(int rank) const {
  const SequencePartition partition(L, sequence_size());
  const int sequence_rank = rank / tensor_size();
  if (config.prefill.chunk == 0) return partition.local_size(sequence_rank);
  return largest_chunk(prefill_chunks(partition, sequence_rank, config.prefill.chunk));
}

bool PlanInput::residual_on_host(int rank) const {
  const SequencePartition partition(L, sequence_size());
  return config.prefill.residual == ResidualPlace::host &&
         prefill_chunks(partition, rank / tensor_size(), config.prefill.chunk).size() > 1;
}

PlanInput make_plan_input(const Checkpoint& checkpoint, const RunConfig& config, DecodeMode decode, int64_t L,
                          Device device, int64_t fed) {
  PlanInput input;
  input.device = device;
  input.model = checkpoint.config;
  input.weights = checkpoint.weights.get();
  input.config = config;
  input.decode = decode;
  if (config.parallel.context == ContextChoice::ring) input.context = ContextPlan::ring;
  input.L = L;
  input.new_tokens = std::min(fed + config.generate.max_new_tokens - 1, decode_room(input.model, config.cache, L));
  // The policy itself says what it reads.
  Context ctx({Device::cpu, 1});
  auto self = make_self_communicator();
  HeadLayout heads{input.model.Hq, input.model.Hkv, input.model.d, split_heads(input.model.Hq, input.model.Hkv, 1, 0)};
  Evictor evictor(ctx, *self, *self, heads, config.cache);
  input.output_factors = evictor.needs_output_factors();
  input.window_queries = evictor.needs_window_queries();
  return input;
}

MemoryPlan plan_memory(const PlanInput& input, int rank) {
  const ModelConfig& m = input.model;
  ShardPlan shard = shard_of(input, rank);
  int sequence_rank = rank / input.tensor_size();
  int64_t L_lc = SequencePartition(input.L, input.sequence_size()).local_size(sequence_rank);
  const DeviceSizes size = device_sizes(input.device);
  int64_t rows = input.rows_at_once(rank), slice = std::min(size.slice_rows, rows);
  int64_t q = shard.resident.heads.Hq_lc() * m.d, kv = shard.resident.heads.Hkv_lc() * m.d;

  MemoryPlan plan;
  plan.weights = weight_bytes(input, shard.resident);
  if (input.output_factors) plan.output_factors = m.layers * shard.resident.heads.Hq_lc() * m.d * m.d * kF32;
  plan.layer_kv = 2 * L_lc * kv * size.kv;
  const bool ring = input.sequence_size() > 1 && input.context == ContextPlan::ring;
  if (ring)
    plan.layer_kv += std::min(input.sequence_size() - 1, 2) * 2 * most_rows(input) * kv * size.kv;
  else if (input.sequence_size() > 1)
    plan.layer_kv += 2 * input.L * kv * size.kv;
  if (input.evicts() && input.window_queries) plan.layer_kv += input.config.cache.window * q * size.activation;
  if (input.config.cache.re_indexes()) plan.layer_kv += L_lc * kv * size.kv;  // keys before their rotation
  plan.cache = cache_bytes(input, shard, L_lc);
  int64_t x_rows = L_lc;
  if (input.residual_on_host(rank)) {
    x_rows = 2 * rows;
    // CPU ranks hold all they have in host memory.
    if (input.device == Device::cpu) x_rows += L_lc;
    if (input.device == Device::gpu) plan.host = L_lc * m.hidden * kF32;
  }
  plan.activations = x_rows * m.hidden * kF32 + rows * (q * size.activation + m.d * kF32);  // x, q, the rotations
  plan.activations += slice * (m.hidden + 3 * shard.resident.mlp.size()) * size.activation;
  if (input.tensor_size() > 1 || m.traits.output_norms)
    plan.activations += 2 * slice * m.hidden * size.sum;  // terms of sums over the ranks
  if (ring) {                                             // attention of all blocks so far in f32, and of one
    const int64_t heads = shard.resident.heads.Hq_lc(), block = std::min(kAttentionRows, L_lc);
    plan.activations += L_lc * (q + heads) * kF32 + block * (q * size.activation + heads * kF32);
  }
  // What decoding holds beside the cache, it holds when the prefill is over.
  plan.scratch = std::max(
      eviction_scratch_bytes(input, shard, rank),
      rotated_keys_bytes(input, plan.cache) + step_bytes(input, shard.decode) - plan.layer_kv - plan.activations);
  return plan;
}

MemoryPlan plan_memory(const PlanInput& input) {
  MemoryPlan most;
  for (int rank = 0; rank < input.ranks(); ++rank) {
    MemoryPlan plan = plan_memory(input, rank);
    if (rank == 0 || plan.total() > most.total()) most = plan;
  }
  return most;
}

std::string describe(const MemoryPlan& plan, int ranks_per_host, int64_t available) {
  std::string host = available > 0 ? format_bytes(available) + " available" : "available memory unknown";
  if (plan.host > 0) host += fmt::format("; {} of the host's memory a rank", format_bytes(plan.host));
  return fmt::format(
      "weights {} + output factors {} + one layer's K/V {} + retained cache {} + activations {} + scratch {} = {} a "
      "rank; {} rank{} on this host: {}, {}",
      format_bytes(plan.weights), format_bytes(plan.output_factors), format_bytes(plan.layer_kv),
      format_bytes(plan.cache), format_bytes(plan.activations), format_bytes(plan.scratch), format_bytes(plan.total()),
      ranks_per_host, ranks_per_host == 1 ? "" : "s", format_bytes(plan.total() * ranks_per_host), host);
}

int64_t memory_limit(const RunConfig& config, int64_t available) {
  double gib = config.parallel.memory_gib;
  return gib > 0 ? static_cast<int64_t>(gib * 1024 * 1024 * 1024) : available;
}

DecodeMode resolve_decode(DecodeChoice choice, bool one_host) {
  if (choice == DecodeChoice::automatic) return one_host ? DecodeMode::tensor : DecodeMode::sequence;
  return choice == DecodeChoice::tensor ? DecodeMode::tensor : DecodeMode::sequence;
}

std::optional<DType> weight_dtype(WeightDtype choice) {
  if (choice == WeightDtype::automatic) return std::nullopt;
  return choice == WeightDtype::f32 ? DType::f32 : DType::bf16;
}

void check_layout(const ModelConfig& model, const RunConfig& config, DecodeMode decode) {
  try {
    make_shard_plan(model, static_cast<int>(config.parallel.sequence), static_cast<int>(config.parallel.tensor), 0, 0,
                    decode);
  } catch (const InputError& e) {
    fail_input("{}: {}", config.file, e.what());
  }
}

}  // namespace restkv
