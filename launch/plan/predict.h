// Times of a run that nobody has started yet, from a machine's ceilings: each term is an amount of work that follows
// from the shapes (FLOPs, bytes read, bytes exchanged) over a rate. launch/README.md lists the formulas.
#pragma once

#include <cstdint>
#include <string>

#include "launch/plan/machine.h"
#include "launch/plan/memory_plan.h"

namespace restkv {

/// What the rank with the longest share has to do in a prefill beside products and attention: bytes read and written.
struct MemoryWork {
  double elementwise = 0.0;  ///< norms, rotation, activation
  double scoring = 0.0;      ///< the decision of all layers; 0 without eviction
};
MemoryWork memory_work(const PlanInput& input);

/// Seconds of the slowest rank.
struct Prediction {
  // Prefill.
  double linear = 0.0;
  double attention = 0.0;
  double elementwise = 0.0;
  double exchange = 0.0;        ///< K/V gathers beyond what the queries' projection hides; sums over the tensor group
  double scoring = 0.0;         ///< the decision and the copies of what stays
  double evict_exchange = 0.0;  ///< its collectives
  double reshard = 0.0;         ///< kept rows on their way to the ranks that decode them
  double head = 0.0;            ///< the last position's logits
  // A decode step.
  double products = 0.0;
  double rows = 0.0;  ///< attention
  double decode_exchange = 0.0;
  double step_start = 0.0;

  double evict() const { return scoring + evict_exchange + reshard; }
  double prefill() const { return linear + attention + elementwise + exchange + evict() + head; }
  double decode() const { return products + rows + decode_exchange + step_start; }
};

/// Ranks lie on the nodes in their order, `ranks_per_node` on each; links between nodes count where a group spans them.
Prediction predict(const PlanInput& input, const Machine& machine, int64_t ranks_per_node);

/// A group of ranks: every `stride`-th of the world, from the first.
struct RankGroup {
  int64_t size = 1;
  int64_t stride = 1;
};
/// Seconds of a sum of `bytes` over the group; of a gather that brings `received` bytes to every rank.
double all_reduce_seconds(const Machine& machine, RankGroup group, int64_t ranks_per_node, double bytes);
double all_gather_seconds(const Machine& machine, RankGroup group, int64_t ranks_per_node, double received);

}  // namespace restkv
