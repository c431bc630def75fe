#include "launch/bench/point_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/ops/decode_linear.h"

namespace restkv {

bool raise_positions(const RunConfig& config, const std::vector<BenchLayout>& sweep, ModelConfig* model) {
  if (config.model.weights != WeightChoice::random) return false;
  int64_t longest = 0;
  for (const BenchGroup& group : sweep.front().groups)
    longest = std::max(longest, group.context + decode_steps(config, group));
  if (longest <= model->max_positions) return false;
  model->max_positions = longest;
  return true;
}

PlanInput point_input(const Checkpoint& checkpoint, const RunConfig& point, const BenchGroup& group, int64_t batch,
                      DecodeMode decode, Device device) {
  PlanInput input = make_plan_input(checkpoint, point, decode, group.context, device);
  input.new_tokens = decode_steps(point, group);
  input.batch = batch;
  input.length_key = "bench.context";
  return input;
}

std::string refusal_of(const PlanInput& input, const MemoryPlan& plan, int ranks_sharing, int64_t available) {
  const CacheConfig& cache = input.config.cache;
  int64_t positions = input.model.max_positions, budget = cache.budget.resolve(input.L);
  if (input.device == Device::gpu && input.batch > kMaxDecodeBatch)
    return fmt::format("a batch of {} sequences; GPUs decode at most {} together", input.batch, kMaxDecodeBatch);
  if (input.L > positions || input.new_tokens > decode_room(input.model, cache, input.L))
    return fmt::format("{} tokens and {} decode steps exceed the model's {} positions", input.L, input.new_tokens,
                       positions);
  if (input.evicts() && budget < cache.least_budget())
    return fmt::format("cache.budget is {} tokens for this prompt, but cache.window is {}; expected at least {}",
                       budget, cache.window, cache.least_budget());
  return describe_misfit(input, plan, ranks_sharing, available);
}

}  // namespace restkv
