// Which way the sequence ranks exchange a layer's keys and values: parallel.context, and what `auto` stands for.
#pragma once

#include "dist/comm/communicator.h"
#include "launch/plan/memory_plan.h"

namespace restkv {

/// `auto` on this rank: the ring when the ranks of a sequence group lie on several hosts, or when a run that gathers
/// layers does not fit into `available` bytes (0: unknown, then it fits) for ranks_per_host such ranks and one with the
/// ring does; all-gather otherwise, and always for a model whose sliding window cuts the sequence.
ContextPlan choose_context(const PlanInput& input, bool one_host, int ranks_per_host, int64_t available);

/// The same on all ranks: the ring when one of them chooses it. Collective over `control`.
ContextPlan agree_on_context(Communicator& control, const PlanInput& input, bool one_host, int ranks_per_host,
                             int64_t available);

}  // namespace restkv
