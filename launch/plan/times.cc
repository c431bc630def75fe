#include "launch/plan/times.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kvcache/policies/policy.h"
#include "launch/config/config_hash.h"

namespace restkv {
namespace {

std::string layout_of(const PlanInput& input) {
  return fmt::format("{}x{}", input.sequence_size(), input.tensor_size());
}

int64_t nodes_of(const PlanInput& input) {
  int64_t per_node = input.config.plan.ranks_per_node;
  return (input.ranks() + per_node - 1) / per_node;
}

/// Of fewest ranks among the points of the same work; the point itself when there is no smaller one.
const PlannedPoint& base_of(const PlannedPoint& point, const std::vector<PlannedPoint>& all) {
  const PlannedPoint* best = &point;
  for (const PlannedPoint& p : all) {
    const CacheConfig &a = p.input.config.cache, &b = point.input.config.cache;
    bool same = a.policy == b.policy && p.input.kept() == point.input.kept() && p.input.L == point.input.L &&
                p.input.batch == point.input.batch;
    if (same && p.input.ranks() < best->input.ranks()) best = &p;
  }
  return *best;
}

std::string sources(const Machine& m, bool several, bool nodes) {
  std::string text = fmt::format("projection for {}; ceilings and shares: {}\n", m.name, m.source);
  if (several) text += "links inside a node: " + (m.inside.source.empty() ? "assumed" : m.inside.source) + "\n";
  if (nodes) text += "links between nodes: " + m.between.source + "\n";
  return text;
}

}  // namespace

std::optional<Machine> plan_machine(const RunConfig& config, Device device) {
  if (!config.plan.ceilings.empty()) return read_machine(config.plan.ceilings, device);
  if (device == Device::gpu) return h200();
  return std::nullopt;
}

PlannedPoint make_planned_point(const PlanInput& input, const Machine& machine) {
  PlannedPoint point;
  point.input = input;
  PlanInput mode = input;
  mode.decode = DecodeMode::tensor;
  point.tensor = predict(mode, machine, input.config.plan.ranks_per_node);
  mode.decode = DecodeMode::sequence;
  point.sequence = predict(mode, machine, input.config.plan.ranks_per_node);
  return point;
}

std::string describe_times(const PlannedPoint& point, const Machine& machine) {
  const PlanInput& in = point.input;
  const Prediction& p = in.decode == DecodeMode::tensor ? point.tensor : point.sequence;
  auto row = [](const char* name, const std::string& value) { return fmt::format("  {:<26} {}\n", name, value); };
  auto seconds = [](double s) { return fmt::format("{:.4g} s", s); };
  auto decode = [](const Prediction& d) {
    return fmt::format("{:.4g} ms (products {:.4g}, attention {:.4g}, exchange {:.4g}, start {:.4g})", d.decode() * 1e3,
                       d.products * 1e3, d.rows * 1e3, d.decode_exchange * 1e3, d.step_start * 1e3);
  };
  std::string out = "times of the longest prompt\n" + sources(machine, in.ranks() > 1, nodes_of(in) > 1);
  out += row("prefill", seconds(p.prefill()));
  out += row("  linear layers", seconds(p.linear));
  out += row("  attention", seconds(p.attention));
  out += row("  norms, rotation, ...", seconds(p.elementwise));
  out += row("  exchange", seconds(p.exchange));
  out += row("  eviction", fmt::format("{}, its exchanges {}, re-sharding {}", seconds(p.scoring),
                                       seconds(p.evict_exchange), seconds(p.reshard)));
  out += row("decode, mode tensor", decode(point.tensor));
  out += row("decode, mode sequence", decode(point.sequence));
  return out;
}

std::string times_table(const std::vector<PlannedPoint>& points, const Machine& machine) {
  bool several = false, nodes = false;
  for (const PlannedPoint& p : points) several |= p.input.ranks() > 1, nodes |= nodes_of(p.input) > 1;
  std::string out = "\ntimes\n" + sources(machine, several, nodes);
  out += fmt::format(
      "{:>8} {:>5} {:>5} {:<14} {:>7} {:>8} {:>5} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>6} {:>11} {:>11}\n",
      "layout", "ranks", "nodes", "policy", "kept", "context", "batch", "prefill s", "linear", "attention", "exchange",
      "evict", "speed-up", "eff.", "tensor ms", "sequence ms");
  for (const PlannedPoint& point : points) {
    const PlanInput& in = point.input;
    const Prediction& p = in.decode == DecodeMode::tensor ? point.tensor : point.sequence;
    const PlannedPoint& base = base_of(point, points);
    const Prediction& b = in.decode == DecodeMode::tensor ? base.tensor : base.sequence;
    const double speedup = b.prefill() / p.prefill();
    out += fmt::format(
        "{:>8} {:>5} {:>5} {:<14} {:>7} {:>8} {:>5} {:>10.4g} {:>10.4g} {:>10.4g} {:>10.4g} {:>10.4g} {:>8.4g} "
        "{:>6.3f} "
        "{:>11.4g} {:>11.4g}{}\n",
        layout_of(in), in.ranks(), nodes_of(in), in.config.cache.policy, in.kept(), in.L, in.batch, p.prefill(),
        p.linear, p.attention, p.exchange, p.evict(), speedup, speedup * base.input.ranks() / in.ranks(),
        point.tensor.decode() * 1e3, point.sequence.decode() * 1e3, point.refusal.empty() ? "" : "  does not fit");
  }
  return out;
}

std::string projection_line(const PlannedPoint& point, const Machine& machine) {
  const PlanInput& in = point.input;
  const Prediction& p = in.decode == DecodeMode::tensor ? point.tensor : point.sequence;
  const CacheConfig& cache = in.config.cache;
  nlohmann::ordered_json j;
  j["kind"] = "projection";
  j["status"] = point.refusal.empty() ? "ok" : "refused";
  if (!point.refusal.empty()) j["reason"] = point.refusal;
  j["machine"] = machine.name;
  j["from"] = machine.source;
  j["model"] = in.config.model.name();
  j["layers"] = in.model.layers;
  j["context"] = in.L;
  j["policy"] = cache.policy;
  j["budget"] = nullptr;
  if (find_policy(cache.policy).evicts && cache.budget.fraction > 0) j["budget"] = cache.budget.fraction;
  if (find_policy(cache.policy).evicts && cache.budget.fraction <= 0) j["budget"] = cache.budget.tokens;
  j["batch"] = in.batch;
  j["ranks"] = in.ranks();
  j["nodes"] = nodes_of(in);
  j["layout"] = {{"sequence", in.sequence_size()},
                 {"tensor", in.tensor_size()},
                 {"decode", in.decode == DecodeMode::tensor ? "tensor" : "sequence"},
                 {"device", std::string(name_of(in.device))}};
  j["prefill"] = {{"s", p.prefill()},
                  {"linear", p.linear},
                  {"attention", p.attention},
                  {"elementwise", p.elementwise},
                  {"exchange", p.exchange},
                  {"scoring", p.scoring},
                  {"evict_exchange", p.evict_exchange},
                  {"reshard", p.reshard},
                  {"head", p.head}};
  j["decode"] = {{"ms", p.decode() * 1e3},
                 {"tensor_ms", point.tensor.decode() * 1e3},
                 {"sequence_ms", point.sequence.decode() * 1e3}};
  j["planned_bytes"] = point.memory;
  j["config_hash"] = hex64(config_hash(in.config, HashScope::outcome));
  j["request_hash"] = hex64(fnv1a(fmt::format("projection {} {}", in.L, in.batch)));
  return j.dump();
}

}  // namespace restkv
