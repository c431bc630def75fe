// Whether a run fits, and what would when it does not.
#include <algorithm>
#include <vector>

#include "dist/base/error.h"
#include "launch/plan/memory_plan.h"
#include "launch/results/record.h"

namespace restkv {
namespace {

bool fits(const PlanInput& input, int ranks_per_host, int64_t available) {
  return plan_memory(input).total() * ranks_per_host <= available;
}

/// The longest prompt that fits, 0 when none does.
int64_t longest_prompt(PlanInput input, int ranks_per_host, int64_t available) {
  int64_t low = 0, high = input.L;  // low fits (or is 0), high does not
  while (high - low > 1) {
    input.L = low + (high - low) / 2;
    (fits(input, ranks_per_host, available) ? low : high) = input.L;
  }
  return low;
}

std::vector<std::string> remedies(const PlanInput& input, int ranks_per_host, int64_t available) {
  std::vector<std::string> found;
  PlanInput change = input;
  if (int64_t L = longest_prompt(input, ranks_per_host, available); L > 0)
    found.push_back(fmt::format("a prompt of at most {} tokens (prompt.max_tokens)", L));
  if (!input.evicts()) {
    change.config.cache.policy = "restkv";
    change.config.cache.budget = {0, 0.15};
    change.output_factors = change.window_queries = true;
    if (fits(change, ranks_per_host, available)) found.push_back("cache.policy: restkv with cache.budget: 15%");
  }
  change = input;
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

void require_fit(const PlanInput& input, const MemoryPlan& plan, int ranks_per_host, int64_t available) {
  int64_t needed = plan.total() * ranks_per_host;
  if (available <= 0 || needed <= available) return;
  std::string options;
  for (const std::string& remedy : remedies(input, ranks_per_host, available))
    options += (options.empty() ? "" : "; ") + remedy;
  if (options.empty())
    options = "none of a shorter prompt, a smaller cache, bf16 weights or more hosts; a smaller model";
  fail_input(
      "{}: the run does not fit into memory: {}. A prompt of {} tokens needs {}, {} may be used. What would fit: {}",
      input.config.file, describe(plan, ranks_per_host, available), input.L, format_bytes(needed),
      format_bytes(available), options);
}

}  // namespace restkv
