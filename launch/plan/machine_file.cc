// A machine from what `restkv bench` measured on it.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "dist/base/error.h"
#include "launch/plan/machine.h"

namespace restkv {
namespace {

using Json = nlohmann::json;

struct Lines {
  Json environment, links;   // the last of each; null without one
  std::vector<Json> points;  // measured, on one rank, of the last environment's model
};

Lines read_lines(const std::string& path) {
  std::ifstream in(path);
  if (!in) fail_input("plan.ceilings: {}: cannot be read; expected a file that restkv bench wrote", path);
  Lines lines;
  int64_t number = 0;
  for (std::string text; std::getline(in, text);) {
    ++number;
    if (text.empty()) continue;
    Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("kind"))
      fail_input("plan.ceilings: {}:{}: found no line of restkv bench (they have a member \"kind\")", path, number);
    const std::string kind = line["kind"];
    if (kind == "environment") lines.environment = line;
    if (kind == "links") lines.links = line;
    if (kind == "point" && line.value("status", "") == "ok" && line.value("ranks", 0) == 1)
      lines.points.push_back(line);
  }
  if (lines.environment.is_null())
    fail_input("plan.ceilings: {}: holds no line of kind \"environment\"; expected a file that restkv bench wrote",
               path);
  return lines;
}

double phase_seconds(const Json& phases, std::initializer_list<const char*> names) {
  double sum = 0.0;
  for (const Json& p : phases)
    for (const char* name : names)
      if (p["name"] == name) sum += p["s"].get<double>();
  return sum;
}

/// Points of one kind by context: the longest speaks for rates, the shortest for what does not grow.
std::map<double, Json> by_context(const std::vector<Json>& points, bool evicted) {
  std::map<double, Json> found;
  for (const Json& p : points)
    if (p["batch"] == 1 && p["evicted"] == evicted) found[p["context"].get<double>()] = p;
  return found;
}

void read_prefill(const std::vector<Json>& points, Machine* m) {
  m->attention.clear();
  std::map<double, Json> contexts = by_context(points, true);
  contexts.merge(by_context(points, false));
  for (const auto& [context, p] : contexts) {
    const Json& prefill = p["prefill"];
    const double attention = phase_seconds(prefill["phases"], {"attention"});
    const double gemm = phase_seconds(prefill["phases"], {"gemm"});
    const double flops = prefill["flops"]["attention"].get<double>();
    if (attention > 0.0) m->attention.emplace_back(context, flops / attention / m->gemm_flops);
    if (gemm > 0.0) m->linear = prefill["flops"]["linear"].get<double>() / gemm / m->gemm_flops;
    const double elementwise = phase_seconds(prefill["phases"], {"norm", "rope", "activation", "embed"});
    if (elementwise > 0.0)
      m->elementwise = prefill["memory_work"]["elementwise"].get<double>() / elementwise / m->copy_bytes;
  }
}

// Seconds = start + bytes / rate, by the least squares of two or more points; through the origin for one.
std::pair<double, double> line_through(const std::vector<std::pair<double, double>>& points) {
  double n = 0.0, x = 0.0, y = 0.0, xx = 0.0, xy = 0.0;
  for (auto [px, py] : points) n += 1.0, x += px, y += py, xx += px * px, xy += px * py;
  const double spread = n * xx - x * x;
  if (n < 2.0 || spread <= 1e-9 * n * xx) return {0.0, xx > 0.0 ? xy / xx : 0.0};
  const double slope = (n * xy - x * y) / spread;
  return {(y - slope * x) / n, slope};
}

// Scoring: its start is a layer's.
void read_scoring(const std::vector<Json>& points, Machine* m) {
  std::vector<std::pair<double, double>> runs;
  double layers = 1.0;
  for (const auto& [context, p] : by_context(points, true)) {
    runs.emplace_back(p["prefill"]["memory_work"]["scoring"].get<double>(),
                      phase_seconds(p["prefill"]["phases"], {"scoring", "select", "compact"}));
    layers = p["layers"].get<double>();
  }
  if (runs.empty()) return;
  auto [start, slope] = line_through(runs);
  if (slope <= 0.0 || start < 0.0) {
    start = 0.0;
    slope = line_through({runs.back()}).second;
  }
  if (slope <= 0.0) return;
  m->evict_start = start / layers;
  m->evict = 1.0 / slope / m->copy_bytes;
}

// A step's time over all bytes that it reads, weights and rows: its slope is the rate of reading, what is left at no
// bytes are starts. With one cache size the rate takes them in.
void read_decode(const std::vector<Json>& points, Machine* m) {
  std::vector<std::pair<double, double>> steps;
  double layers = 1.0;
  for (const Json& p : points) {
    if (p["batch"] != 1) continue;
    const Json& d = p["decode"];
    steps.emplace_back(d["weight_bytes"].get<double>() + d["kv_bytes"].get<double>(), d["ms"].get<double>() / 1e3);
    layers = p["layers"].get<double>();
  }
  if (steps.empty()) return;
  auto [start, slope] = line_through(steps);
  if (slope <= 0.0 || start < 0.0) {
    start = 0.0;
    slope = line_through({steps.back()}).second;
  }
  m->read = 1.0 / slope / m->copy_bytes;
  m->step_start = 0.0;
  m->attention_start = m->product_start = start / (5.0 * layers + 1.0);
  std::map<double, std::vector<double>> factors;
  for (const Json& p : points) {
    const Json& d = p["decode"];
    const double batch = p["batch"].get<double>();
    const double rows = layers * m->attention_start + d["kv_bytes"].get<double>() * slope;
    const double products = (4.0 * layers + 1.0) * m->product_start;
    factors[batch].push_back((d["ms"].get<double>() / 1e3 - rows - products) /
                             (d["weight_bytes"].get<double>() * slope));
  }
  m->batch.clear();
  for (auto& [batch, values] : factors) {
    std::sort(values.begin(), values.end());
    m->batch.emplace_back(batch, std::max(0.01, batch == 1.0 ? 1.0 : values[values.size() / 2]));
  }
}

void read_links(const Json& line, Link* link) {
  if (line.is_null()) return;
  const double n = line["ranks"].get<double>(), moved = 2.0 * (n - 1.0) / n;
  link->all_reduce.clear();
  for (const Json& sum : line["all_reduce"]) {
    const double seconds = sum["us"].get<double>() / 1e6;
    if (link->all_reduce.empty()) link->latency = std::max(1e-9, seconds - link->hop * (n - 2.0));
    // As two ranks would take it.
    link->all_reduce.emplace_back(
        sum["bytes"].get<double>(),
        link->latency + std::max(0.0, seconds - link->latency - link->hop * (n - 2.0)) / moved);
  }
  link->bandwidth = line["all_gather_gbs"].get<double>() * 1e9;
}

}  // namespace

Machine read_machine(const std::string& path, Device device) {
  const Lines lines = read_lines(path);
  const Json& e = lines.environment;
  if (e["device"] != name_of(device))
    fail_input("plan.ceilings: {}: measured on {} ranks, but the plan is for {} ranks", path,
               e["device"].get<std::string>(), name_of(device));
  if (device == Device::cpu && lines.points.empty())
    fail_input(
        "plan.ceilings: {}: holds no measured point on one rank; expected a bench with the layout 1x1 among its "
        "layouts",
        path);
  Machine m;
  if (device == Device::gpu) {
    m = h200();
  } else {
    m.elementwise = m.evict = 0.25;  // unless the points tell
    m.inside = {e["ceilings"]["copy_tbs"].get<double>() * 1e12 / 4.0, 20e-6, 5e-6, {}, {}, {}};
    m.between = {1e9, 60e-6, 20e-6, {}, "assumed: 1 GB/s, 60 us", {}};
  }
  m.device = device;
  const double ranks = e["ranks"].get<double>();
  m.name = e["device_name"];
  m.source = path;
  m.gemm_flops = e["ceilings"]["gemm_tflops"].get<double>() * 1e12 / ranks;
  m.copy_bytes = e["ceilings"]["copy_tbs"].get<double>() * 1e12 / ranks;
  if (!lines.points.empty()) {
    read_prefill(lines.points, &m);
    read_scoring(lines.points, &m);
    read_decode(lines.points, &m);
  }
  read_links(lines.links, &m.inside);
  if (!lines.links.is_null()) m.inside.source = path;
  return m;
}

}  // namespace restkv
