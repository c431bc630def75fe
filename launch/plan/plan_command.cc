#include "launch/plan/plan_command.h"

#include <algorithm>

#include "dist/base/error.h"
#include "launch/bench/point_plan.h"
#include "launch/plan/context_choice.h"
#include "launch/plan/memory_plan.h"
#include "launch/plan/times.h"
#include "launch/plan/traffic_plan.h"
#include "launch/prompts/prompts.h"
#include "launch/results/record.h"
#include "launch/results/result_file.h"
#include "launch/run/device.h"
#include "launch/run/open_model.h"
#include "launch/run/threads.h"

namespace restkv {
namespace {

void print_row(const char* name, const std::string& value) { fmt::print("  {:<26} {}\n", name, value); }

void print_bytes(const char* name, int64_t bytes) { print_row(name, format_bytes(bytes)); }

void print_head(const PlanInput& input, size_t prompts) {
  const auto& p = input.config.parallel;
  fmt::print("plan of {}\n", input.config.file);
  print_row("model", input.config.model.path);
  print_row("device", std::string(name_of(input.device)));
  print_row("ranks", fmt::format("{} x {} (sequence x tensor), decode {}{}", p.sequence, p.tensor,
                                 input.decode == DecodeMode::tensor ? "tensor" : "sequence",
                                 p.sequence > 1 ? fmt::format(", context {}", name_of(input.context)) : ""));
  print_row("prompts", fmt::format("{}, the longest {} tokens", prompts, input.L));
  if (input.batch > 1) print_row("batch", fmt::format("{} prompts decoded together", input.batch));
  bool pyramid = input.evicts() && deals_to_layers(input.config.cache.allocation);
  print_row(
      "kept per head and layer",
      fmt::format(
          "{} tokens{} ({})", input.kept(),
          pyramid ? fmt::format(" on average, {} to {}", input.kept_in(0), input.kept_in(input.model.layers - 1)) : "",
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
  if (plan.host > 0) print_bytes("residual stream, host", plan.host);
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

/// What the device that this process sees can give; 0 when the run's GPU is not here.
int64_t available_here(Device device) {
  if (device == Device::cpu) return available_memory();
  return GpuRuntime::count() > 0 ? GpuRuntime::create(0)->free_bytes() : 0;
}

// What is known of CPUs beforehand is too little to predict from.
void print_no_times() {
  fmt::print("times: of CPUs nothing is known beforehand; plan.ceilings names a file that restkv bench wrote\n");
}

void save_projections(const RunConfig& config, const std::vector<PlannedPoint>& points, const Machine& machine) {
  if (config.plan.file.empty()) return;
  ResultFile file(config.plan.file, "plan.file");
  for (const PlannedPoint& point : points) file.append(projection_line(point, machine));
}

/// A model with random weights answers no prompts: what is planned is the sweep of `restkv bench`, point by point.
void plan_sweep(const RunConfig& config, Checkpoint checkpoint, DecodeMode decode, Device device, int64_t available) {
  const std::optional<Machine> machine = plan_machine(config, device);
  std::vector<PlannedPoint> points;
  std::vector<BenchLayout> sweep = make_sweep(config, /*world_size=*/0);
  raise_positions(config, sweep, &checkpoint.config);
  fmt::print("plan of the sweep of {}, {} ranks\n", config.file, name_of(device));
  print_row("model", config.model.name());
  print_row("available", available > 0 ? format_bytes(available) : "unknown");
  fmt::print("bytes of the rank that needs most\n");
  fmt::print("{:>7} {:<14} {:>7} {:>8} {:>5} {:>10} {:>10} {:>10} {:>11} {:>10} {:>10}\n", "layout", "policy", "kept",
             "context", "batch", "weights", "cache", "layer K/V", "activations", "scratch", "sum");
  for (const BenchLayout& layout : sweep)
    for (const BenchGroup& group : layout.groups)
      for (int64_t batch : group.batch) {
        RunConfig point = point_config(config, layout, group);
        check_layout(checkpoint.config, point, decode);
        PlanInput input = point_input(checkpoint, point, group, batch, decode, device);
        const int sharing = device == Device::gpu ? 1 : input.ranks();
        input.context = choose_context(input, /*one_host=*/true, sharing, available);
        MemoryPlan plan = plan_memory(input);
        std::string refusal = refusal_of(input, plan, sharing, available);
        fmt::print("{:>7} {:<14} {:>7} {:>8} {:>5} {:>10} {:>10} {:>10} {:>11} {:>10} {:>10}{}{}\n",
                   fmt::format("{}x{}", layout.sequence, layout.tensor), group.cache.policy, input.kept(), input.L,
                   batch, format_bytes(plan.weights + plan.output_factors), format_bytes(plan.cache),
                   format_bytes(plan.layer_kv), format_bytes(plan.activations), format_bytes(plan.scratch),
                   format_bytes(plan.total()), refusal.empty() ? "" : "  refused: ", refusal);
        if (!machine) continue;
        points.push_back(make_planned_point(input, *machine));
        points.back().memory = plan.total();
        points.back().refusal = refusal;
      }
  if (!machine) return print_no_times();
  fmt::print("{}", times_table(points, *machine));
  save_projections(config, points, *machine);
}

}  // namespace

void plan_command(const std::string& config_path, const std::vector<std::string>& overrides) {
  RunConfig config = load_run_config(config_path, overrides);
  resolve_layout(config, std::max<int64_t>(config.world_size(), config.parallel.tensor));
  DecodeMode decode = resolve_decode(config.parallel.decode, /*one_host=*/true);
  Device device = planned_device(config);
  int64_t available = memory_limit(config, available_here(device));
  Checkpoint checkpoint = open_model(config);
  if (config.model.weights == WeightChoice::random) return plan_sweep(config, checkpoint, decode, device, available);
  check_layout(checkpoint.config, config, decode);
  std::vector<Request> requests = prepare_requests(read_prompts(config), checkpoint, config);
  int64_t longest = 0;
  for (const Request& r : requests) longest = std::max(longest, static_cast<int64_t>(r.tokens.size()));

  PlanInput input = make_plan_input(checkpoint, config, decode, longest, device);
  input.batch = std::min(config.generate.batch, static_cast<int64_t>(requests.size()));
  int sharing = device == Device::gpu ? 1 : input.ranks();
  input.context = choose_context(input, /*one_host=*/true, sharing, available);
  MemoryPlan plan = plan_memory(input);
  print_head(input, requests.size());
  print_memory(plan, sharing, available);
  print_traffic(plan_traffic(input));
  if (const std::optional<Machine> machine = plan_machine(config, device)) {
    PlannedPoint point = make_planned_point(input, *machine);
    point.memory = plan.total();
    fmt::print("{}", describe_times(point, *machine));
    save_projections(config, {point}, *machine);
  } else {
    print_no_times();
  }
  require_fit(input, plan, sharing, available);
}

}  // namespace restkv
