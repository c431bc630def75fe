#include "launch/bench/scaling.h"

#include <fmt/format.h>

#include "launch/bench/costs.h"

namespace restkv {
namespace {

int64_t ranks_of(const BenchPoint& p) { return p.layout.sequence * p.layout.tensor; }

std::string name_of(const BenchPoint& p) { return fmt::format("{}x{}", p.layout.sequence, p.layout.tensor); }

bool same_cache(const BenchPoint& a, const BenchPoint& b) {
  const CacheConfig &x = a.config.cache, &y = b.config.cache;
  return a.batch == b.batch && x.policy == y.policy && x.budget.tokens == y.budget.tokens &&
         x.budget.fraction == y.budget.fraction;
}

/// Of the points that `fits` admits, on fewer ranks than `point`: fewest ranks first, then the fastest.
template <class Fits>
const BenchPoint* smallest(const BenchPoint& point, std::span<const BenchPoint> all, const Fits& fits) {
  const BenchPoint* best = nullptr;
  for (const BenchPoint& p : all) {
    if (p.status != "ok" || ranks_of(p) >= ranks_of(point) || !same_cache(p, point) || !fits(p)) continue;
    if (best == nullptr || ranks_of(p) < ranks_of(*best) ||
        (ranks_of(p) == ranks_of(*best) && p.result.prefill_s < best->result.prefill_s))
      best = &p;
  }
  return best;
}

}  // namespace

std::optional<Scaling> strong_scaling(const BenchPoint& point, std::span<const BenchPoint> all) {
  if (point.status != "ok") return std::nullopt;
  const BenchPoint* base = smallest(point, all, [&](const BenchPoint& p) { return p.context == point.context; });
  if (base == nullptr) return std::nullopt;
  const double ratio = static_cast<double>(ranks_of(point)) / static_cast<double>(ranks_of(*base));
  Scaling s;
  s.base = name_of(*base);
  s.base_ranks = ranks_of(*base);
  s.prefill_speedup = base->result.prefill_s / point.result.prefill_s;
  s.decode_speedup = base->result.step_s / point.result.step_s;
  s.prefill_efficiency = s.prefill_speedup / ratio;
  s.decode_efficiency = s.decode_speedup / ratio;
  return s;
}

std::optional<WeakScaling> weak_scaling(const BenchPoint& point, std::span<const BenchPoint> all,
                                        const ModelConfig& model) {
  if (point.status != "ok") return std::nullopt;
  const BenchPoint* base = smallest(
      point, all, [&](const BenchPoint& p) { return p.context * ranks_of(point) == point.context * ranks_of(p); });
  if (base == nullptr) return std::nullopt;
  auto rate = [&](const BenchPoint& p) {
    return prefill_cost(model, p.context).total() / p.result.prefill_s / static_cast<double>(ranks_of(p));
  };
  return WeakScaling{name_of(*base), base->context, rate(point) / rate(*base)};
}

}  // namespace restkv
