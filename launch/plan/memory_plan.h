// How much memory a run needs, from the model's shape alone. The terms follow what model/transformer.cc, prefill.cc
// and kv_cache.cc allocate; a test holds the sum against a measured run. What differs between devices is in
// device_sizes alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "launch/config/run_config.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"
#include "model/transformer.h"

namespace restkv {

/// What the plans' formulas take from the device.
struct DeviceSizes {
  int64_t activation = 4;         ///< bytes of an element of x, q and the MLP's activations
  int64_t sum = 4;                ///< of a term of the tensor group's sums in prefill
  int64_t kv = 4;                 ///< of K and V, one layer's and the cache's
  std::optional<DType> matrices;  ///< how matrices are held; none: as the configuration says
  int64_t slice_rows = 1024;      ///< rows whose MLP activations exist at once (model/prefill.cc)
};
DeviceSizes device_sizes(Device device);

/// Everything that the plans of a run depend on.
struct PlanInput {
  ModelConfig model;
  const WeightSource* weights = nullptr;
  RunConfig config;  ///< its layout resolved
  DecodeMode decode = DecodeMode::tensor;
  ContextPlan context = ContextPlan::allgather;  ///< of parallel.context; for `auto` see context_choice.h
  int64_t L = 0;                                 ///< tokens of the longest prompt
  int64_t new_tokens = 0;                        ///< rows that decoding adds to the cache
  int64_t batch = 1;                             ///< prompts of L tokens that are decoded together
  Device device = Device::cpu;
  bool output_factors = false;  ///< whether the policy needs R_h
  bool window_queries = false;  ///< whether the policy reads the window's queries

  const char* length_key = "prompt.max_tokens";  ///< what shortens the prompt, for messages

  int ranks() const { return static_cast<int>(config.world_size()); }
  int sequence_size() const { return static_cast<int>(config.parallel.sequence); }
  int tensor_size() const { return static_cast<int>(config.parallel.tensor); }
  /// Whether a prompt of L tokens is evicted, and the rows that each cache head keeps of it: on average over the
  /// layers, and in one.
  bool evicts() const;
  int64_t kept() const;
  int64_t kept_in(int64_t layer) const;
  /// Rows of a rank whose queries exist at once: all of them, or those of the largest chunk.
  int64_t rows_at_once(int rank) const;
  /// Whether a rank's residual stream is at home in host memory: asked for, and of more than one chunk.
  bool residual_on_host(int rank) const;
};

PlanInput make_plan_input(const Checkpoint& checkpoint, const RunConfig& config, DecodeMode decode, int64_t L,
                          Device device = Device::cpu);

/// Bytes on one rank.
struct MemoryPlan {
  int64_t weights = 0;
  int64_t output_factors = 0;
  int64_t layer_kv = 0;     ///< one layer's local K and V, gathered or on their way, and the window's queries
  int64_t cache = 0;        ///< retained rows of all layers and prompts, with room for the new tokens
  int64_t activations = 0;  ///< residual stream, queries (of a chunk), one slice of the MLP
  int64_t scratch = 0;      ///< the eviction of one layer, and its rows on their way to the decoding ranks
  int64_t host = 0;         ///< beside these, of a GPU rank's host: the residual stream at home there
  int64_t total() const { return weights + output_factors + layer_kv + cache + activations + scratch; }
};

/// Of one rank; of the rank that needs most.
MemoryPlan plan_memory(const PlanInput& input, int rank);
MemoryPlan plan_memory(const PlanInput& input);

/// One line: the terms and what the host has. `available` 0: unknown.
std::string describe(const MemoryPlan& plan, int ranks_per_host, int64_t available);

/// Empty when ranks_per_host such ranks fit into `available` bytes (or that is 0: unknown). Else what they need, and
/// each change that would make them fit: the longest prompt, the largest batch, the largest budget, ...
std::string describe_misfit(const PlanInput& input, const MemoryPlan& plan, int ranks_per_host, int64_t available);

/// Throws InputError when ranks_per_host such ranks need more than `available` bytes (0: unknown, never throws). The
/// message names each change that would make the run fit.
void require_fit(const PlanInput& input, const MemoryPlan& plan, int ranks_per_host, int64_t available);

/// parallel.memory_gib when it is set, else `available`.
int64_t memory_limit(const RunConfig& config, int64_t available);

/// `auto`: tensor on one host, sequence over several.
DecodeMode resolve_decode(DecodeChoice choice, bool one_host);

/// How weights are held; none for "as the file stores them".
std::optional<DType> weight_dtype(WeightDtype choice);

/// Throws InputError, with the configuration's file, when the model cannot be cut as the layout says.
void check_layout(const ModelConfig& model, const RunConfig& config, DecodeMode decode);

}  // namespace restkv
