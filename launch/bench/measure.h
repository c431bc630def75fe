// Measures the points of one group: prefills first, then decode steps with ever more sequences together.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "dist/comm/process_grid.h"
#include "launch/bench/sweep.h"
#include "model/transformer.h"

namespace restkv {

/// What was measured at one point; the same on every rank. Times are the slowest rank's.
struct BenchResult {
  int64_t batch = 1;

  std::vector<double> prefill_seconds;    ///< of every measured prefill, in their order
  double prefill_s = 0.0;                 ///< their median: of an even number the lower of the middle two
  std::vector<PhaseTime> prefill_phases;  ///< of the prefill that is the median; bytes over all ranks
  PrefillReport report;                   ///< of the first sequence; layer_bytes over all ranks

  std::vector<double> step_seconds;      ///< of every measured decode step, ascending
  double step_s = 0.0;                   ///< their median
  double step_mean_s = 0.0;              ///< their mean: evictions while decoding come at every n-th step
  double step_p95_s = 0.0;               ///< the least time that 95% of the steps do not exceed
  std::vector<PhaseTime> decode_phases;  ///< a step's mean; bytes over all ranks
  double kv_bytes = 0.0;                 ///< K and V rows of all sequences and ranks, mean over the steps
  int64_t sent_bytes = 0;                ///< by all ranks, in all measured steps

  std::vector<int64_t> peak_bytes;         ///< [ranks] tensors held at most since the group began, weights included
  std::vector<int64_t> device_used_bytes;  ///< [ranks] in use on the GPU, by whomever; empty on CPUs
};

class GroupMeasurement {
 public:
  /// References outlive the object. Sets the transformer's cache configuration.
  GroupMeasurement(Context& ctx, const ProcessGrid& grid, Transformer& model, const RunConfig& config,
                   const BenchGroup& group);

  /// Prefills (or copies, see bench.distinct) what is missing of `batch` sequences and decodes them together. `batch`
  /// grows from call to call: the sequences are those of the call before (longer by its steps), and more. Collective.
  BenchResult measure(int64_t batch);

 private:
  Sequence prefill(int64_t index, double* seconds);
  void measure_prefills();
  void add_sequence();
  void decode(BenchResult& result);
  void gather_memory(BenchResult& result);
  double kv_bytes();

  Context& ctx_;
  const ProcessGrid& grid_;
  Transformer& model_;
  const RunConfig& config_;
  const BenchGroup& group_;
  BenchResult prefills_;  // what all batches share
  std::vector<Sequence> sequences_;
};

/// Prompt `index` of a batch: tokens that depend on the seed, the index and their place alone.
std::vector<int32_t> random_prompt(uint64_t seed, int64_t index, int64_t length, int64_t vocab);

}  // namespace restkv
