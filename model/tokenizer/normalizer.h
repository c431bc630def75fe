// Rewrites text before it is cut into words.
#pragma once

#include <string>
#include <string_view>

namespace restkv {

enum class Normalizer { kNone, kNfc };

/// `text` must be valid UTF-8; so is the result. kNfc: Unicode normalization form C (UAX #15).
std::string normalize(Normalizer normalizer, std::string_view text);

}  // namespace restkv
