#include "launch/prompts/utf8.h"

#include <algorithm>

#include "dist/base/error.h"

namespace restkv {
namespace {

/// Bytes of the character that starts at s[0], 0 when there is no valid one.
int64_t character_length(std::string_view s) {
  auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  auto follows = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return follows(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    bool overlong = lead == 0xe0 && byte(1) < 0xa0;
    bool surrogate = lead == 0xed && byte(1) > 0x9f;
    return follows(1) && follows(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    bool overlong = lead == 0xf0 && byte(1) < 0x90;
    bool beyond = lead == 0xf4 && byte(1) > 0x8f;
    return follows(1) && follows(2) && follows(3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

}  // namespace

int64_t first_invalid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    int64_t length = character_length(text.substr(i));
    if (length == 0) return static_cast<int64_t>(i);
    i += static_cast<size_t>(length);
  }
  return -1;
}

void require_utf8(std::string_view text, const std::string& what) {
  int64_t offset = first_invalid_utf8(text);
  if (offset < 0) return;
  auto line = std::count(text.begin(), text.begin() + offset, '\n') + 1;
  fail_input("{}: invalid UTF-8 at byte {} (0x{:02x}, line {}); expected UTF-8 text", what, offset,
             static_cast<unsigned char>(text[static_cast<size_t>(offset)]), line);
}

}  // namespace restkv
