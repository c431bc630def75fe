// Output projections with chosen spectra, and the norms that their factors stand for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace restkv::testing {

struct Weights {
  int64_t hidden, heads, d;
  std::vector<float> wo;  // [hidden, heads * d]
};

// Columns whose scale falls from 1 to `smallest` inside each head, then mixed by a rotation of neighbours, so that
// small and large directions do not lie along the axes.
inline Weights make_weights(int64_t hidden, int64_t heads, int64_t d, double smallest) {
  std::mt19937 random(11);
  std::normal_distribution<double> normal;
  Weights w{hidden, heads, d, std::vector<float>(static_cast<size_t>(hidden * heads * d))};
  for (int64_t i = 0; i < hidden; ++i)
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<double> row(static_cast<size_t>(d));
      for (int64_t j = 0; j < d; ++j)
        row[j] = normal(random) *
                 std::pow(smallest, static_cast<double>(j) / static_cast<double>(std::max<int64_t>(1, d - 1)));
      for (int64_t j = 0; j + 1 < d; ++j) {
        const double a = row[j], b = row[j + 1];
        row[j] = 0.8 * a - 0.6 * b;
        row[j + 1] = 0.6 * a + 0.8 * b;
      }
      for (int64_t j = 0; j < d; ++j) w.wo[(i * heads + h) * d + j] = static_cast<float>(row[j]);
    }
  return w;
}

inline double direct_norm(const Weights& w, int64_t h, const std::vector<double>& x) {
  double sum = 0.0;
  for (int64_t i = 0; i < w.hidden; ++i) {
    double y = 0.0;
    for (int64_t j = 0; j < w.d; ++j) y += static_cast<double>(w.wo[(i * w.heads + h) * w.d + j]) * x[j];
    sum += y * y;
  }
  return std::sqrt(sum);
}

inline double factor_norm(const float* r, int64_t d, const std::vector<double>& x) {
  double sum = 0.0;
  for (int64_t i = 0; i < d; ++i) {
    double y = 0.0;
    for (int64_t j = 0; j < d; ++j) y += static_cast<double>(r[i * d + j]) * x[j];
    sum += y * y;
  }
  return std::sqrt(sum);
}

}  // namespace restkv::testing
