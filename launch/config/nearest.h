// The nearest word, for "did you mean".
#pragma once

#include <cstdint>
#include <string_view>

namespace restkv {

/// Fewest insertions, deletions, replacements and swaps of neighbours that turn a into b (optimal string alignment).
int64_t edit_distance(std::string_view a, std::string_view b);

}  // namespace restkv
