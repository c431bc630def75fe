// Rows of values for the tests of the top-k selection.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace restkv::testing {

using Row = std::vector<float>;
inline constexpr float kInf = std::numeric_limits<float>::infinity();

inline Row make_row(int64_t n, const std::function<float(int64_t)>& value) {
  Row row;
  for (int64_t i = 0; i < n; ++i) row.push_back(value(i));
  return row;
}

/// The k largest, -0 equal to +0, ties to the lowest index.
inline std::vector<int64_t> sorted_top(const Row& row, int64_t k) {
  std::vector<int64_t> index(row.size());
  std::iota(index.begin(), index.end(), 0);
  std::stable_sort(index.begin(), index.end(),
                   [&](int64_t a, int64_t b) { return row[static_cast<size_t>(a)] > row[static_cast<size_t>(b)]; });
  index.resize(static_cast<size_t>(k));
  std::sort(index.begin(), index.end());
  return index;
}

/// Values that a selection may stumble over: ties of all kinds, infinities, denormals, any bits.
inline std::vector<Row> adversarial_rows(int64_t n) {
  std::mt19937 random(static_cast<uint32_t>(n));
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> small(0, 3);
  std::uniform_int_distribution<uint32_t> bits;
  const float tiny = std::numeric_limits<float>::denorm_min();
  return {
      make_row(n, [&](int64_t) { return normal(random); }),
      make_row(n, [](int64_t) { return 0.25f; }),
      make_row(n, [](int64_t i) { return i % 2 == 0 ? 0.0f : -0.0f; }),
      make_row(n, [&](int64_t i) { return static_cast<float>(i % 5) * tiny; }),
      make_row(n, [&](int64_t i) { return -static_cast<float>(i % 11) * tiny; }),
      make_row(n, [&](int64_t) { return -std::abs(normal(random)); }),
      make_row(n, [&](int64_t i) { return i % 3 == 0   ? kInf
                                          : i % 3 == 1 ? -kInf
                                                       : normal(random); }),
      make_row(n, [&](int64_t) { return static_cast<float>(small(random)); }),
      make_row(n, [](int64_t i) { return static_cast<float>(i); }),
      make_row(n, [](int64_t i) { return -static_cast<float>(i); }),
      make_row(n, [](int64_t i) { return 1.0f + static_cast<float>(i % 3) * 0x1p-23f; }),
      make_row(n,
               [&](int64_t) {
                 float x = std::bit_cast<float>(bits(random));
                 return x != x ? 1.0f : x;
               }),
  };
}

}  // namespace restkv::testing
