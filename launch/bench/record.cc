#include "launch/bench/record.h"

#include <cblas.h>
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

#include "dist/base/blas_kernels.h"
#include "kvcache/policies/policy.h"
#include "launch/bench/costs.h"
#include "launch/bench/scaling.h"
#include "launch/config/config_hash.h"
#include "launch/plan/memory_plan.h"
#include "launch/version.h"

namespace restkv {
namespace {

using Json = nlohmann::ordered_json;

/// Rounded to `digits` significant digits, which prints without the tail of a binary fraction.
double digits(double value, int count = 6) {
  if (value == 0.0 || !std::isfinite(value)) return 0.0;
  double scale = std::pow(10.0, count - 1 - std::floor(std::log10(std::fabs(value))));
  return std::round(value * scale) / scale;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json to_json(const std::vector<PhaseTime>& phases) {
  Json list = Json::array();
  for (const PhaseTime& p : phases)
    list.push_back(
        {{"name", p.name}, {"s", digits(p.seconds)}, {"least_s", digits(p.least_seconds)}, {"bytes", p.bytes}});
  return list;
}

Json to_json(const std::vector<double>& values) {
  Json list = Json::array();
  for (double v : values) list.push_back(digits(v));
  return list;
}

Json to_json(const Layout& layout) {
  return {{"sequence", layout.sequence},
          {"tensor", layout.tensor},
          {"decode", layout.decode},
          {"threads_per_rank", layout.threads},
          {"device", layout.device}};
}

Json to_json(const Prediction& p, const BenchSetting& setting) {
  auto s = [](double seconds) { return digits(seconds, 4); };
  return {{"from", setting.predicted_from},
          {"prefill_s", s(p.prefill())},
          {"decode_ms", s(p.decode() * 1e3)},
          {"prefill",
           {{"linear", s(p.linear)},
            {"attention", s(p.attention)},
            {"elementwise", s(p.elementwise)},
            {"exchange", s(p.exchange)},
            {"scoring", s(p.scoring)},
            {"evict_exchange", s(p.evict_exchange)},
            {"reshard", s(p.reshard)},
            {"head", s(p.head)}}},
          {"decode",
           {{"products", s(p.products)},
            {"rows", s(p.rows)},
            {"exchange", s(p.decode_exchange)},
            {"step", s(p.step_start)}}}};
}

Json to_json(const Scaling& s) {
  return {{"base", s.base},
          {"prefill_speedup", digits(s.prefill_speedup, 4)},
          {"prefill_efficiency", digits(s.prefill_efficiency, 4)},
          {"decode_speedup", digits(s.decode_speedup, 4)},
          {"decode_efficiency", digits(s.decode_efficiency, 4)}};
}

Json budget_of(const BenchPoint& point) {
  const CacheConfig& cache = point.config.cache;
  if (!find_policy(cache.policy).evicts) return nullptr;
  return cache.budget.fraction > 0 ? Json(cache.budget.fraction) : Json(cache.budget.tokens);
}

double mean_kept(const PrefillReport& report) {
  double total = 0.0, heads = 0.0;
  for (const auto& layer : report.kept_counts)
    for (int64_t count : layer) total += static_cast<double>(count), heads += 1.0;
  return heads == 0.0 ? 0.0 : total / heads;
}

DecodeCost cost_of(const BenchPoint& point, const BenchSetting& setting) {
  const ModelConfig& m = setting.model;
  Device device = point.layout.device == "gpu" ? Device::gpu : Device::cpu;
  bool per_query = point.config.cache.granularity == Granularity::query_head;
  double rows = point.result.kv_bytes / static_cast<double>(2 * m.d * device_sizes(device).kv);
  double queries = per_query ? 1.0 : static_cast<double>(m.Hq) / static_cast<double>(m.Hkv);
  return decode_cost(m, point.batch, setting.step_weights, rows, queries, point.result.kv_bytes);
}

int64_t ranks_of(const BenchPoint& point) { return point.layout.sequence * point.layout.tensor; }

/// A phase's part of the prefill, on the rank that waited least for others in it.
double phase_share(const BenchResult& r, std::string_view name) {
  for (const PhaseTime& p : r.prefill_phases)
    if (p.name == name) return p.least_seconds / r.prefill_s;
  return 0.0;
}

double evict_share(const BenchResult& r) {
  if (!r.report.evicted) return 0.0;
  double share = 0.0;
  for (const char* phase : {"scoring", "select", "evict_exchange", "compact"}) share += phase_share(r, phase);
  return share;
}

Json prefill_json(const BenchPoint& point, const BenchSetting& setting) {
  const BenchResult& r = point.result;
  PrefillCost cost = prefill_cost(setting.model, point.context);
  double rate = cost.total() / r.prefill_s;
  return {{"s", digits(r.prefill_s)},
          {"all_s", to_json(r.prefill_seconds)},
          {"tokens_per_s", digits(static_cast<double>(point.context) / r.prefill_s)},
          {"tflops", digits(rate / 1e12)},
          {"gemm_ceiling_share", digits(rate / setting.ceilings.of(ranks_of(point)).gemm_flops, 4)},
          {"flops", {{"linear", cost.linear}, {"attention", cost.attention}, {"head", cost.head}}},
          {"memory_work", {{"elementwise", digits(point.work.elementwise)}, {"scoring", digits(point.work.scoring)}}},
          {"sent_by_layer", r.report.layer_bytes},
          {"evict_share", digits(evict_share(r), 4)},
          {"evict_exchange_share", digits(phase_share(r, "evict_exchange"), 4)},
          {"phases", to_json(r.prefill_phases)}};
}

Json decode_json(const BenchPoint& point, const BenchSetting& setting) {
  const BenchResult& r = point.result;
  DecodeCost cost = cost_of(point, setting);
  double rate = cost.bytes / r.step_s;
  return {{"ms", digits(r.step_s * 1e3)},
          {"mean_ms", digits(r.step_mean_s * 1e3)},
          {"p95_ms", digits(r.step_p95_s * 1e3)},
          {"steps", r.step_seconds.size()},
          {"tokens_per_s", digits(static_cast<double>(point.batch) / r.step_s)},
          {"tbs", digits(rate / 1e12)},
          {"copy_ceiling_share", digits(rate / setting.ceilings.of(ranks_of(point)).copy_bytes, 4)},
          {"tflops", digits(cost.flops / r.step_s / 1e12)},
          {"weight_bytes", setting.step_weights},
          {"kv_bytes", r.kv_bytes},
          {"flops", cost.flops},
          {"sent_bytes_per_step", r.sent_bytes / static_cast<int64_t>(r.step_seconds.size())},
          {"phases", to_json(r.decode_phases)}};
}

/// Of what the prompts are: two lines with one hash measured the same work.
std::string work_hash(const BenchPoint& point) {
  const auto& b = point.config.bench;
  return hex64(fnv1a(fmt::format("{} {} {} {} {}", point.context, point.batch, b.seed, b.new_tokens, b.warmup)));
}

void add_measured(Json& j, const BenchPoint& point, const BenchSetting& setting) {
  const BenchResult& r = point.result;
  const PrefillReport& p = r.report;
  j["prefill"] = prefill_json(point, setting);
  j["decode"] = decode_json(point, setting);
  j["evicted"] = p.evicted;
  j["budget_tokens"] = p.budget;
  j["kept_tokens"] = digits(mean_kept(p));
  j["kept_counts"] = p.kept_counts;
  j["kept_hash"] = hex64(p.kept_hash);
  j["cache_bytes"] = p.cache_bytes;
  j["full_cache_bytes"] = p.full_cache_bytes;
  j["peak_bytes"] = r.peak_bytes;
  if (!r.device_used_bytes.empty()) j["device_used_bytes"] = r.device_used_bytes;
}

}  // namespace

std::string environment_line(const BenchSetting& setting, int64_t ranks) {
  Json j;
  j["kind"] = "environment";
  j["time"] = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  j["version"] = version();
  j["device"] = setting.layout.device;
  j["device_name"] = setting.device_name;
  j["ranks"] = ranks;
  j["threads_per_rank"] = setting.layout.threads;
  j["ceilings"] = {{"gemm_tflops", digits(setting.ceilings.gemm_flops / 1e12)},
                   {"copy_tbs", digits(setting.ceilings.copy_bytes / 1e12)}};
  j["libraries"] = {{"compiler", __VERSION__},
                    {"blas", openblas_get_config()},
                    {"blas_kernels", choose_blas_kernels()},
                    {"cuda", setting.device_versions.empty() ? Json(nullptr) : Json(setting.device_versions)}};
  j["model"] = setting.config.model.name();
  j["parameters"] = setting.model.parameters();
  j["config"] = Json::parse(canonical_json(setting.config, HashScope::everything));
  j["config_hash"] = hex64(config_hash(setting.config, HashScope::everything));
  j["request_hash"] = hex64(fnv1a("environment"));
  return dump(j);
}

std::string links_line(const BenchSetting& setting) {
  Json j;
  j["kind"] = "links";
  j["layout"] = to_json(setting.layout);
  j["ranks"] = setting.layout.sequence * setting.layout.tensor;
  Json sums = Json::array();
  for (auto [bytes, seconds] : setting.links.all_reduce)
    sums.push_back({{"bytes", static_cast<int64_t>(bytes)}, {"us", digits(seconds * 1e6, 4)}});
  j["all_reduce"] = sums;
  j["all_gather_gbs"] = digits(setting.links.gather_bytes / 1e9, 4);
  j["config_hash"] = hex64(config_hash(setting.config, HashScope::everything));
  j["request_hash"] = hex64(fnv1a("links"));
  return dump(j);
}

std::string point_line(const BenchPoint& point, const BenchSetting& setting, std::span<const BenchPoint> all) {
  Json j;
  j["kind"] = "point";
  j["status"] = point.status;
  if (!point.reason.empty()) j["reason"] = point.reason;
  j["model"] = point.config.model.name();
  j["layers"] = setting.model.layers;
  j["context"] = point.context;
  j["policy"] = point.config.cache.policy;
  j["budget"] = budget_of(point);
  j["batch"] = point.batch;
  j["ranks"] = ranks_of(point);
  j["layout"] = to_json(point.layout);
  j["planned_bytes"] = point.planned_bytes;
  if (setting.weight_bytes > 0) {
    j["load_s"] = digits(setting.load_s);
    j["weight_bytes"] = setting.weight_bytes;
  }
  if (point.status == "ok") add_measured(j, point, setting);
  if (point.prediction) j["prediction"] = to_json(*point.prediction, setting);
  if (auto s = strong_scaling(point, all)) j["strong_scaling"] = to_json(*s);
  if (auto w = weak_scaling(point, all, setting.model))
    j["weak_scaling"] = {
        {"base", w->base}, {"base_context", w->base_context}, {"efficiency", digits(w->efficiency, 4)}};
  j["config_hash"] = hex64(config_hash(point.config, HashScope::outcome));
  j["request_hash"] = work_hash(point);
  j["version"] = version();
  return dump(j);
}

std::string point_summary(const BenchPoint& point) {
  const CacheConfig& cache = point.config.cache;
  Json budget = budget_of(point);
  std::string text =
      fmt::format("{}x{}, {}{}{}, {} tokens, batch {}: ", point.layout.sequence, point.layout.tensor, cache.policy,
                  budget.is_null() ? "" : " ", budget.is_null() ? "" : budget.dump(), point.context, point.batch);
  if (point.status != "ok") return text + point.status + ": " + point.reason;
  return text + fmt::format("prefill {:.3f} s, decode {:.3f} ms", point.result.prefill_s, point.result.step_s * 1e3);
}

namespace {

/// "10.57  10.33  -2.3%": measured, predicted, how far off; the latter two empty without a prediction.
std::string beside(double measured, double predicted, int places) {
  std::string text = fmt::format("{:>10.{}f}", measured, places);
  if (predicted == 0.0) return text + fmt::format(" {:>10} {:>8}", "-", "-");
  return text + fmt::format(" {:>10.{}f} {:>+7.1f}%", predicted, places, 100.0 * (predicted / measured - 1.0));
}

std::string comparison_row(const BenchPoint& point, std::span<const BenchPoint> all, const BenchSetting& setting) {
  const Json budget = budget_of(point);
  const auto strong = strong_scaling(point, all);
  const auto weak = weak_scaling(point, all, setting.model);
  const Prediction predicted = point.prediction.value_or(Prediction{});
  auto factor = [](bool known, double value) { return known ? fmt::format("{:.3f}", value) : std::string("-"); };
  return fmt::format("{:>7} {:>5} {:<14} {:>7} {:>8} {:>5} {} {:>8} {:>7} {:>7} {} {:>8} {:>7}\n",
                     fmt::format("{}x{}", point.layout.sequence, point.layout.tensor), ranks_of(point),
                     point.config.cache.policy, budget.is_null() ? "-" : budget.dump(), point.context, point.batch,
                     beside(point.result.prefill_s, predicted.prefill(), 3),
                     factor(strong.has_value(), strong ? strong->prefill_speedup : 0),
                     factor(strong.has_value(), strong ? strong->prefill_efficiency : 0),
                     factor(weak.has_value(), weak ? weak->efficiency : 0),
                     beside(point.result.step_s * 1e3, predicted.decode() * 1e3, 3),
                     factor(strong.has_value(), strong ? strong->decode_speedup : 0),
                     factor(strong.has_value(), strong ? strong->decode_efficiency : 0));
}

/// Empty without predictions and with layouts of one size.
std::string comparison_table(const std::vector<BenchPoint>& points, const BenchSetting& setting) {
  bool compares = std::any_of(points.begin(), points.end(), [&](const BenchPoint& p) {
    return p.status == "ok" && (p.prediction || strong_scaling(p, points) || weak_scaling(p, points, setting.model));
  });
  if (!compares) return "";
  std::string out =
      "\nspeed-up and efficiency over the smallest layout (strong: of the same context; weak: of a context "
      "shorter by the ratio of the ranks, FLOP/s a rank)\n";
  if (!setting.predicted_from.empty()) out += "predictions from " + setting.predicted_from + "\n";
  out += fmt::format(
      "{:>7} {:>5} {:<14} {:>7} {:>8} {:>5} {:>10} {:>10} {:>8} {:>8} {:>7} {:>7} {:>10} {:>10} {:>8} {:>8} {:>7}\n",
      "layout", "ranks", "policy", "budget", "context", "batch", "prefill s", "predicted", "off", "speed-up", "strong",
      "weak", "decode ms", "predicted", "off", "speed-up", "strong");
  for (const BenchPoint& point : points)
    if (point.status == "ok") out += comparison_row(point, points, setting);
  return out;
}

}  // namespace

std::string bench_table(const std::vector<BenchPoint>& points, const BenchSetting& setting) {
  std::string out = fmt::format("{} on {}; ceilings of {} rank{}: GEMM {:.4g} TFLOP/s, copy {:.4g} TB/s\n",
                                setting.config.model.name(), setting.device_name, setting.ceilings.ranks,
                                setting.ceilings.ranks == 1 ? "" : "s", setting.ceilings.gemm_flops / 1e12,
                                setting.ceilings.copy_bytes / 1e12);
  out += fmt::format(
      "{:>7} {:<14} {:>7} {:>8} {:>5} {:>10} {:>8} {:>6} {:>9} {:>6} {:>6} {:>10} {:>9} {:>9} {:>8} {:>6} {:>10} "
      "{:>10}\n",
      "layout", "policy", "budget", "context", "batch", "prefill s", "TFLOP/s", "share", "evict s", "share", "exch.",
      "decode ms", "p95 ms", "tokens/s", "TB/s", "share", "cache", "peak");
  for (const BenchPoint& point : points) {
    Json budget = budget_of(point);
    out +=
        fmt::format("{:>7} {:<14} {:>7} {:>8} {:>5} ", fmt::format("{}x{}", point.layout.sequence, point.layout.tensor),
                    point.config.cache.policy, budget.is_null() ? "-" : budget.dump(), point.context, point.batch);
    if (point.status != "ok") {
      // What would fit instead stands in the log and in the file.
      out += fmt::format("{}: {}\n", point.status, point.reason.substr(0, point.reason.find(" What would fit")));
      continue;
    }
    const BenchResult& r = point.result;
    double flops = prefill_cost(setting.model, point.context).total() / r.prefill_s;
    double bytes = cost_of(point, setting).bytes / r.step_s;
    out += fmt::format(
        "{:>10.3f} {:>8.4g} {:>5.1f}% {:>9.4f} {:>5.2f}% {:>5.2f}% {:>10.3f} {:>9.3f} {:>9.1f} {:>8.4g} {:>5.1f}% "
        "{:>10} {:>10}\n",
        r.prefill_s, flops / 1e12, 100.0 * flops / setting.ceilings.of(ranks_of(point)).gemm_flops,
        r.report.evict_seconds, 100.0 * evict_share(r), 100.0 * phase_share(r, "evict_exchange"), r.step_s * 1e3,
        r.step_p95_s * 1e3, static_cast<double>(point.batch) / r.step_s, bytes / 1e12,
        100.0 * bytes / setting.ceilings.of(ranks_of(point)).copy_bytes, format_bytes(r.report.cache_bytes),
        format_bytes(*std::max_element(r.peak_bytes.begin(), r.peak_bytes.end())));
  }
  return out + comparison_table(points, setting);
}

}  // namespace restkv
