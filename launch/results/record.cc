#include "launch/results/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "launch/config/config_hash.h"
#include "launch/version.h"

namespace restkv {
namespace {

using Json = nlohmann::ordered_json;

int64_t total_kept(const PrefillReport& report) {
  int64_t total = 0;
  for (const auto& layer : report.kept_counts)
    for (int64_t count : layer) total += count;
  return total;
}

/// Kept tokens per cache head and layer, on average.
double mean_kept(const PrefillReport& report) {
  int64_t heads = 0;
  for (const auto& layer : report.kept_counts) heads += static_cast<int64_t>(layer.size());
  return heads == 0 ? 0.0 : static_cast<double>(total_kept(report)) / static_cast<double>(heads);
}

/// Rounded to 1 / parts, which prints without the tail of a binary fraction.
double round_to(double value, double parts) { return std::round(value * parts) / parts; }

Json milliseconds_per_token(const Generation& generation, const RequestSummary& summary) {
  if (generation.steps() < 1) return nullptr;  // one token needs no decode step
  return round_to(summary.decode_s * 1e3 / static_cast<double>(generation.steps()), 1e4);
}

}  // namespace

std::vector<std::array<int64_t, 3>> sum_layer_bytes(Communicator& world, std::vector<std::array<int64_t, 3>> own) {
  if (!own.empty()) world.all_reduce(std::span<int64_t>(own.front().data(), 3 * own.size()));
  return own;
}

RequestSummary summarize(Communicator& world, const Generation& generation, int64_t peak_bytes,
                         int64_t peak_resident_bytes) {
  const PrefillReport& p = generation.prefill;
  std::array<double, 4> times = {p.seconds, p.evict_seconds, generation.decode_seconds, generation.feed_seconds};
  world.all_reduce(std::span<double>(times), ReduceOp::max);
  std::array<int64_t, 4> sent = {p.exchange_bytes, p.evict_bytes, p.reshard_bytes, generation.decode_bytes};
  world.all_reduce(std::span<int64_t>(sent), ReduceOp::sum);
  RequestSummary s;
  s.prefill_s = times[0];
  s.evict_s = times[1];
  s.decode_s = times[2];
  s.feed_s = times[3];
  s.sent_prefill = sent[0];
  s.sent_evict = sent[1];
  s.sent_reshard = sent[2];
  s.sent_decode = sent[3];
  s.sent_by_layer = sum_layer_bytes(world, p.layer_bytes);
  auto gather = [&](int64_t mine) {
    std::vector<int64_t> all(static_cast<size_t>(world.size()));
    world.all_gather(&mine, all.data(), 1, DType::i64);
    return all;
  };
  s.peak_bytes = gather(peak_bytes);
  s.peak_resident_bytes = gather(peak_resident_bytes);
  s.cache_bytes = gather(generation.cache_bytes);
  return s;
}

std::string to_json_line(const Request& request, const Generation& generation, const RequestSummary& summary,
                         const Layout& layout, const RunConfig& config) {
  const PrefillReport& p = generation.prefill;
  Json j;
  j["index"] = request.index;
  if (!request.id.empty()) j["id"] = request.id;
  j["text"] = generation.text;
  j["prompt_tokens"] = request.tokens.size();
  j["context_tokens"] = request.context;
  j["question_tokens"] = static_cast<int64_t>(request.tokens.size()) - request.context;
  if (!request.question.empty()) j["question"] = request.question;
  j["context_held"] = generation.held;
  j["removed_prompt_tokens"] = request.removed_tokens;
  j["new_tokens"] = generation.tokens.size();
  j["new_token_ids"] = generation.tokens;
  j["batch"] = generation.batch;
  j["stop_reason"] = generation.stop_reason;
  j["prefill_s"] = round_to(summary.prefill_s, 1e6);
  j["evict_s"] = round_to(summary.evict_s, 1e6);
  j["feed_s"] = round_to(summary.feed_s, 1e6);
  j["decode_ms_per_token"] = milliseconds_per_token(generation, summary);
  j["policy"] = config.cache.policy;
  j["evicted"] = p.evicted;
  j["reason"] = p.evicted ? Json(nullptr) : Json(p.reason);
  j["budget_tokens"] = p.budget;
  j["cache_bytes"] = p.cache_bytes;
  j["full_cache_bytes"] = p.full_cache_bytes;
  j["cache_bytes_per_rank"] = summary.cache_bytes;
  j["peak_bytes"] = summary.peak_bytes;
  j["peak_resident_bytes"] = summary.peak_resident_bytes;
  j["kept_counts"] = p.kept_counts;
  j["kept_hash"] = hex64(p.kept_hash);
  j["bytes_sent"] = {{"prefill", summary.sent_prefill},
                     {"evict", summary.sent_evict},
                     {"reshard", summary.sent_reshard},
                     {"decode", summary.sent_decode}};
  j["bytes_sent_by_layer"] = summary.sent_by_layer;
  j["layout"] = {{"sequence", layout.sequence},
                 {"tensor", layout.tensor},
                 {"decode", layout.decode},
                 {"threads_per_rank", layout.threads},
                 {"device", layout.device}};
  j["model"] = config.model.name();
  j["config_hash"] = hex64(config_hash(config, HashScope::outcome));
  j["request_hash"] = hex64(request.hash);
  j["version"] = version();
  return j.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string to_table(const Request& request, const Generation& generation, const RequestSummary& summary) {
  const PrefillReport& p = generation.prefill;
  auto L = static_cast<double>(request.context);
  const int64_t fed = static_cast<int64_t>(request.tokens.size()) - request.context;
  std::string out;
  auto row = [&](const char* name, const std::string& value) { out += fmt::format("  {:<18} {}\n", name, value); };
  row("prompt", fmt::format("{} tokens", request.tokens.size()));
  row("prefill", fmt::format("{:.3f} s ({:.0f} tokens/s)", summary.prefill_s, L / std::max(summary.prefill_s, 1e-9)) +
                     (generation.held ? ", for an earlier question" : ""));
  row("eviction", p.evicted ? fmt::format("{:.3f} s of it", summary.evict_s) : "none: " + p.reason);
  if (fed > 0) row("fed after it", fmt::format("{} tokens, {:.3f} s", fed, summary.feed_s));
  row("decode", generation.steps() < 1
                    ? fmt::format("{} token, no step", generation.tokens.size())
                    : fmt::format("{} tokens, {:.2f} tokens/s", generation.tokens.size(),
                                  static_cast<double>(generation.steps()) / std::max(summary.decode_s, 1e-9)));
  row("cache kept / full", fmt::format("{:.0f} / {:.0f} tokens per head, {} / {} ({:.1f}%)", mean_kept(p), L,
                                       format_bytes(p.cache_bytes), format_bytes(p.full_cache_bytes),
                                       100.0 * static_cast<double>(p.cache_bytes) /
                                           static_cast<double>(std::max<int64_t>(1, p.full_cache_bytes))));
  std::string peaks;
  for (int64_t bytes : summary.peak_bytes) peaks += (peaks.empty() ? "" : ", ") + format_bytes(bytes);
  row("peak memory", peaks + (summary.peak_bytes.size() > 1 ? " (rank 0, 1, ...)" : ""));
  return out;
}

std::string format_bytes(int64_t bytes) {
  static const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 1024.0 && unit < 4; ++unit) value /= 1024.0;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

}  // namespace restkv
