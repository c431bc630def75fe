#include "launch/plan/plan_command.h"

#include <algorithm>

#include "dist/base/error.h"
#include "launch/plan/memory_plan.h"
#include "launch/plan/traffic_plan.h"
#include "launch/prompts/prompts.h"
#include "launch/results/record.h"
#include "launch/run/threads.h"

namespace restkv {
namespace {

void print_row(const char* name, const std::string& value) { fmt::print("  {:<26} {}\n", name, value); }

void print_bytes(const char* name, int64_t bytes) { print_row(name, format_bytes(bytes)); }

void print_head(const PlanInput& input, size_t prompts) {
  const auto& p = input.config.parallel;
  fmt::print("plan of {}\n", input.config.file);
  print_row("model", input.config.model.path);
  print_row("ranks", fmt::format("{} x {} (sequence x tensor), decode {}", p.sequence, p.tensor,
                                 input.decode == DecodeMode::tensor ? "tensor" : "sequence"));
  print_row("prompts", fmt::format("{}, the longest {} tokens", prompts, input.L));
  print_row("kept per head and layer",
            fmt::format("{} tokens ({})", input.kept(),
                        input.evicts() ? "policy " + input.config.cache.policy : "no eviction"));
}

void print_memory(const MemoryPlan& plan, int ranks, int64_t available) {
  fmt::print("memory of the rank that needs most\n");
  print_bytes("weights", plan.weights);
  print_bytes("output factors", plan.output_factors);
  print_bytes("one layer's K/V", plan.layer_kv);
  print_bytes("retained cache", plan.cache);
  print_bytes("activations", plan.activations);
  print_bytes("scratch", plan.scratch);
  print_bytes("sum", plan.total());
  print_row("all ranks on this host",
            fmt::format("{} x {} = {} of {}", ranks, format_bytes(plan.total()), format_bytes(plan.total() * ranks),
                        available > 0 ? format_bytes(available) + " available" : "an unknown amount"));
}

void print_traffic(const TrafficPlan& plan) {
  fmt::print("bytes that all ranks together send\n");
  print_bytes("prefill", plan.prefill);
  print_bytes("eviction decision", plan.evict);
  print_bytes("re-sharding of kept rows", plan.reshard);
  print_bytes("decode, per token", plan.decode_per_token);
}

}  // namespace

void plan_command(const std::string& config_path, const std::vector<std::string>& overrides) {
  RunConfig config = load_run_config(config_path, overrides);
  resolve_layout(config, std::max<int64_t>(config.world_size(), config.parallel.tensor));
  DecodeMode decode = resolve_decode(config.parallel.decode, /*one_host=*/true);
  Checkpoint checkpoint = open_checkpoint(config.model.path);
  check_layout(checkpoint.config, config, decode);
  std::vector<Request> requests = prepare_requests(read_prompts(config), checkpoint, config);
  int64_t longest = 0;
  for (const Request& r : requests) longest = std::max(longest, static_cast<int64_t>(r.tokens.size()));

  PlanInput input = make_plan_input(checkpoint, config, decode, longest);
  MemoryPlan plan = plan_memory(input);
  int64_t available = memory_limit(config, available_memory());
  print_head(input, requests.size());
  print_memory(plan, input.ranks(), available);
  print_traffic(plan_traffic(input));
  require_fit(input, plan, input.ranks(), available);
}

}  // namespace restkv
