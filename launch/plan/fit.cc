// Whether a run fits, and what would when it does not.
#include <algorithm>
#include <vector>

#include "dist/base/error.h"
#include "kvcache/policies/policy.h"
#include "launch/plan/memory_plan.h"
#include "launch/results/record.h"

namespace restkv {
namespace {

bool fits(const PlanInput& input, int ranks_per_host, int64_t available) {
  return plan_memory(input).total() * ranks_per_host <= available;
}

/// The largest value from `low` to below `high` with which `set` makes the run fit, low - 1 when none does.
/// Precondition: what fits with a value fits with smaller ones.
template <class Set>
int64_t largest(PlanInput input, int64_t low, int64_t high, int ranks_per_host, int64_t available, const Set& set) {
  --low;  // fits, or is below all
  while (high - low > 1) {
    int64_t middle = low + (high - low) / 2;
    set(input, middle);
    (fits(input, ranks_per_host, available) ? low : high) = middle;
  }
  return low;
}

void set_length(PlanInput& input, int64_t L) { input.L = L; }
void set_batch(PlanInput& input, int64_t batch) { input.batch = batch; }
void set_budget(PlanInput& input, int64_t tokens) {
  input.config.cache.budget = {tokens, 0.0};
  if (find_policy(input.config.cache.policy).evicts) return;
  input.config.cache.policy = "restkv";
  input.output_factors = input.window_queries = true;
}

std::vector<std::string> remedies(const PlanInput& input, int ranks_per_host, int64_t available) {
  std::vector<std::string> found;
  if (int64_t L = largest(input, 1, input.L, ranks_per_host, available, set_length); L > 0)
    found.push_back(fmt::format("a prompt of at most {} tokens ({})", L, input.length_key));
  if (int64_t batch = largest(input, 1, input.batch, ranks_per_host, available, set_batch); batch > 0)
    found.push_back(fmt::format("a batch of at most {}", batch));
  for (int64_t chunk : {8192, 2048}) {
    PlanInput change = input;
    change.config.prefill.chunk = chunk;
    if (input.config.prefill.chunk > 0 || input.context == ContextPlan::ring) break;
    if (!fits(change, ranks_per_host, available)) continue;
    found.push_back(fmt::format("prefill.chunk: {}", chunk));
    break;
  }
  int64_t least = input.config.cache.least_budget();
  if (int64_t tokens = largest(input, least, input.kept(), ranks_per_host, available, set_budget); tokens >= least)
    found.push_back(fmt::format("{}cache.budget: {}", input.evicts() ? "" : "cache.policy: restkv with ", tokens));
  PlanInput change = input;
  if (input.device == Device::gpu) return found;  // bf16 already, and on one rank only
  change.config.model.dtype = WeightDtype::bf16;
  if (input.config.model.dtype != WeightDtype::bf16 && fits(change, ranks_per_host, available))
    found.push_back("model.dtype: bf16");
  for (int64_t ranks = input.ranks() * 2; ranks <= input.ranks() * 64; ranks *= 2) {
    change = input;
    change.config.parallel.sequence = ranks / input.tensor_size();
    if (!fits(change, ranks_per_host, available)) continue;
    found.push_back(fmt::format("parallel.sequence: {} over {} hosts like this one", change.config.parallel.sequence,
                                ranks / ranks_per_host));
    break;
  }
  return found;
}

}  // namespace

std::string describe_misfit(const PlanInput& input, const MemoryPlan& plan, int ranks_per_host, int64_t available) {
  int64_t needed = plan.total() * ranks_per_host;
  if (available <= 0 || needed <= available) return "";
  std::string options;
  for (const std::string& remedy : remedies(input, ranks_per_host, available))
    options += (options.empty() ? "" : "; ") + remedy;
  if (options.empty())
    options = "none of a shorter prompt, a smaller cache, bf16 weights or more hosts; a smaller model";
  std::string what = input.batch == 1 ? "A prompt" : fmt::format("A batch of {} prompts", input.batch);
  return fmt::format("{} of {} tokens needs {}, {} may be used. What would fit: {}", what, input.L,
                     format_bytes(needed), format_bytes(available), options);
}

void require_fit(const PlanInput& input, const MemoryPlan& plan, int ranks_per_host, int64_t available) {
  std::string misfit = describe_misfit(input, plan, ranks_per_host, available);
  if (!misfit.empty())
    fail_input("{}: the run does not fit into memory: {}. {}", input.config.file,
               describe(plan, ranks_per_host, available), misfit);
}

}  // namespace restkv
