#include "launch/config/nearest.h"

#include <algorithm>
#include <vector>

namespace restkv {

int64_t edit_distance(std::string_view a, std::string_view b) {
  size_t n = b.size() + 1;
  std::vector<int64_t> two_back(n), back(n), row(n);
  for (size_t j = 0; j < n; ++j) back[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j < n; ++j) {
      row[j] = std::min({back[j] + 1, row[j - 1] + 1, back[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], two_back[j - 2] + 1);
    }
    std::swap(two_back, back);
    std::swap(back, row);
  }
  return back[n - 1];
}

}  // namespace restkv
