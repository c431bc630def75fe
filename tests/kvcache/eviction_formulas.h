// The eviction of one layer, written out in double precision with nothing shared, blocked or factored.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kvcache/eviction_case.h"

namespace restkv::testing {

using Vector = std::vector<double>;

/// Of restkv, its ablations and snapkv.
struct Reference {
  std::vector<Vector> scores;  // [cache heads][P]
  std::vector<std::vector<int64_t>> kept;
  std::vector<int64_t> kernel, shift;
};

/// The case must outlive this.
class Formulas {
 public:
  explicit Formulas(const EvictionCase& c) : c_(c), W_(c.config.window), P_(c.P()) {}

  Reference run() {
    Reference result;
    std::vector<Vector> smoothed;
    for (int64_t h = 0; h < c_.Hq; ++h) smoothed.push_back(smooth(h, indicator(h), result));
    const int64_t group = c_.Hq / c_.Hkv;
    if (c_.config.granularity == Granularity::kv_head) {
      for (int64_t g = 0; g < c_.Hkv; ++g) {
        Vector mean(static_cast<size_t>(P_), 0.0);
        for (int64_t j = 0; j < group; ++j)
          for (int64_t i = 0; i < P_; ++i) mean[i] += smoothed[g * group + j][i] / static_cast<double>(group);
        result.scores.push_back(mean);
      }
    } else {
      result.scores = smoothed;
    }
    for (const Vector& s : result.scores) {
      auto kept = top(s, c_.config.budget.tokens - W_);
      std::sort(kept.begin(), kept.end());
      result.kept.push_back(kept);
    }
    return result;
  }

  // Causal logits [W][L] of head h.
  std::vector<Vector> logits(int64_t h) const {
    std::vector<Vector> rows;
    for (int64_t w = 0; w < W_; ++w) {
      Vector row(static_cast<size_t>(c_.L), -INFINITY);
      for (int64_t i = 0; i <= P_ + w; ++i) {
        double dot = 0.0;
        for (int64_t j = 0; j < c_.d; ++j)
          dot += static_cast<double>(c_.q[(h * W_ + w) * c_.d + j]) * static_cast<double>(key(h, i)[j]);
        const AttentionForm& form = c_.form;
        row[i] = dot * (form.scale > 0.0 ? form.scale : 1.0 / std::sqrt(static_cast<double>(c_.d)));
        if (form.softcap > 0.0) row[i] = form.softcap * std::tanh(row[i] / form.softcap);
        if (form.sliding_window > 0 && i <= P_ + w - form.sliding_window) row[i] = -INFINITY;
      }
      rows.push_back(row);
    }
    return rows;
  }

  // Softmax rows [W][L] of head h.
  std::vector<Vector> attention(int64_t h) const {
    auto rows = logits(h);
    for (Vector& row : rows) {
      const double max = *std::max_element(row.begin(), row.end());
      double sum = 0.0;
      for (double& x : row) sum += x = std::exp(x - max);
      for (double& x : row) x /= sum;
    }
    return rows;
  }

 private:
  const float* key(int64_t h, int64_t i) const { return &c_.k[((h / (c_.Hq / c_.Hkv)) * c_.L + i) * c_.d]; }
  const float* value(int64_t h, int64_t i) const { return &c_.v[((h / (c_.Hq / c_.Hkv)) * c_.L + i) * c_.d]; }

  Vector over_rows(std::vector<Vector> rows) const {
    if (c_.config.policy != "snapkv" && c_.config.temporal == TemporalSmoothing::inverse_ema)
      std::reverse(rows.begin(), rows.end());
    if (c_.config.policy != "snapkv" && c_.config.temporal == TemporalSmoothing::last) return rows.back();
    Vector e = rows[0];
    for (size_t w = 1; w < rows.size(); ++w)
      for (size_t i = 0; i < e.size(); ++i) {
        if (c_.config.policy == "snapkv" || c_.config.temporal == TemporalSmoothing::mean)
          e[i] += rows[w][i];
        else
          e[i] = c_.config.alpha * rows[w][i] + (1.0 - c_.config.alpha) * e[i];
      }
    if (c_.config.policy != "snapkv" && c_.config.temporal == TemporalSmoothing::mean)
      for (double& x : e) x /= static_cast<double>(W_);
    return e;
  }

  // ||x W_O,h|| with all rows of the projection, or ||x||.
  double norm(int64_t h, const Vector& x) const {
    double sum = 0.0;
    if (!c_.config.use_wo) return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
    for (int64_t row = 0; row < c_.hidden(); ++row) {
      double y = 0.0;
      for (int64_t j = 0; j < c_.d; ++j) y += static_cast<double>(c_.wo[(row * c_.Hq + h) * c_.d + j]) * x[j];
      sum += y * y;
    }
    return std::sqrt(sum);
  }

  Vector weighted_sum(int64_t h, const Vector& a, int64_t count) const {
    Vector o(static_cast<size_t>(c_.d), 0.0);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < c_.d; ++j) o[j] += a[i] * static_cast<double>(value(h, i)[j]);
    return o;
  }

  double term(int64_t h, double a, const Vector& o, int64_t i, double tau) const {
    Vector e = o;
    for (int64_t j = 0; j < c_.d; ++j) e[j] -= static_cast<double>(value(h, i)[j]);
    return a / std::max(1.0 - a, 1e-6) * std::pow(norm(h, e), tau);
  }

  Vector indicator(int64_t h) const {
    const auto A = attention(h);
    if (c_.config.policy == "snapkv") return over_rows(A);
    if (!c_.config.reconstruction) {
      Vector a = over_rows(A);
      a.resize(static_cast<size_t>(P_));
      return a;
    }
    if (c_.config.mode == ScoreMode::after) {
      const Vector a = over_rows(A), o = weighted_sum(h, a, P_);
      Vector s;
      for (int64_t i = 0; i < P_; ++i) s.push_back(term(h, a[i], o, i, c_.config.tau));
      return s;
    }
    std::vector<Vector> rows;
    for (int64_t w = 0; w < W_; ++w) {
      const Vector o = weighted_sum(h, A[w], c_.L);
      const double scale = c_.config.normalize ? 1.0 / norm(h, o) : 1.0;
      Vector s;
      for (int64_t i = 0; i < P_; ++i) s.push_back(scale * term(h, A[w][i], o, i, 1.0));
      rows.push_back(s);
    }
    return over_rows(rows);
  }

  static std::vector<int64_t> top(const Vector& s, int64_t count) {
    std::vector<int64_t> index(s.size());
    std::iota(index.begin(), index.end(), 0);
    std::stable_sort(index.begin(), index.end(), [&](int64_t a, int64_t b) { return s[a] > s[b]; });
    index.resize(static_cast<size_t>(count));
    return index;
  }

  Vector smooth(int64_t h, const Vector& s, Reference& result) const {
    int64_t k = c_.config.kernel_size, shift = 0;
    if (c_.config.pooling == Pooling::none) return s;
    if (c_.config.pooling == Pooling::adaptive) {
      const int64_t count = c_.config.budget.tokens - W_;
      Vector mean;
      for (const Vector& row : logits(h)) {  // the order of the weights, where they vanish too
        const auto index = top(row, count);
        mean.push_back(std::accumulate(index.begin(), index.end(), 0.0) / static_cast<double>(count));
      }
      double t = 0.0;
      for (int64_t w = 0; w < W_ / 2; ++w) t += (mean[w] - mean[W_ - 1 - w]) / static_cast<double>(W_ / 2);
      k = std::max(k, 2 * static_cast<int64_t>(std::abs(t) / c_.config.beta) + 1);
      shift = static_cast<int64_t>(std::floor(t / c_.config.beta)) + (t > 0 ? 0 : 1);
      result.kernel.push_back(k);
      result.shift.push_back(shift);
    }
    Vector out;
    for (int64_t i = 0; i < P_; ++i) {
      double sum = 0.0, max = -INFINITY;
      for (int64_t j = i - (k / 2 - shift); j <= i + k / 2 + shift; ++j) {
        const bool inside = j >= 0 && j < P_;
        if (c_.config.pooling == Pooling::adaptive) sum += s[std::clamp<int64_t>(j, 0, P_ - 1)];
        if (c_.config.pooling == Pooling::average && inside) sum += s[j];
        if (inside) max = std::max(max, s[j]);
      }
      out.push_back(c_.config.pooling == Pooling::max ? max : sum / static_cast<double>(k));
    }
    return out;
  }

  const EvictionCase& c_;
  int64_t W_, P_;
};

}  // namespace restkv::testing
