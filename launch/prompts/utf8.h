// Whether bytes are text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace restkv {

/// Offset of the first byte that does not belong to a well-formed UTF-8 character (RFC 3629: no overlong forms, no
/// surrogates, at most U+10FFFF), or -1.
int64_t first_invalid_utf8(std::string_view text);

/// Throws InputError "WHAT: invalid UTF-8 at byte N (0xff, line M)" unless `text` is valid.
void require_utf8(std::string_view text, const std::string& what);

}  // namespace restkv
