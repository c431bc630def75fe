#include "launch/plan/context_choice.h"

namespace restkv {

ContextPlan choose_context(const PlanInput& input, bool one_host, int ranks_per_host, int64_t available) {
  if (input.config.parallel.context != ContextChoice::automatic) return input.context;
  const int64_t window = input.model.traits.sliding_window;
  const bool cut = window > 0 && input.L + input.new_tokens > window;
  if (input.sequence_size() == 1 || cut || input.config.prefill.chunk > 0) return ContextPlan::allgather;
  if (!one_host) return ContextPlan::ring;
  auto fits = [&](ContextPlan plan) {
    PlanInput with = input;
    with.context = plan;
    return plan_memory(with).total() * ranks_per_host <= available;
  };
  const bool only_ring = available > 0 && !fits(ContextPlan::allgather) && fits(ContextPlan::ring);
  return only_ring ? ContextPlan::ring : ContextPlan::allgather;
}

ContextPlan agree_on_context(Communicator& control, const PlanInput& input, bool one_host, int ranks_per_host,
                             int64_t available) {
  int32_t ring = choose_context(input, one_host, ranks_per_host, available) == ContextPlan::ring ? 1 : 0;
  control.all_reduce(&ring, 1, DType::i32, ReduceOp::max);
  return ring == 1 ? ContextPlan::ring : ContextPlan::allgather;
}

}  // namespace restkv
