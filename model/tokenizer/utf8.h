// UTF-8 as the tokenizers need it: strict checking, stepping by character, and repair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace restkv {

/// One step over a byte string. Well-formedness is that of the Unicode standard, table 3-7 (no surrogates, no
/// overlong forms, nothing above U+10FFFF).
struct Utf8Step {
  enum class Kind : uint8_t { kCharacter, kInvalid, kTruncated };
  Kind kind = Kind::kInvalid;
  uint8_t length = 0;  ///< bytes of the character, or of the longest prefix of one that stands here (at least 1)
  char32_t character = 0;
};

/// The step at byte `at` (less than text.size()). kTruncated: the text ends inside a character that may yet be valid.
Utf8Step next_utf8(std::string_view text, size_t at);

/// Offset of the first byte that is not part of a well-formed character; npos when all of the text is valid.
size_t first_invalid_utf8(std::string_view text);

/// Throws InputError naming `what` and the byte offset.
void require_utf8(std::string_view text, const std::string& what);

void append_utf8(std::string& out, char32_t character);

/// Appends the valid characters of `bytes` to `out`; every maximal invalid part becomes one U+FFFD. Without `at_end` a
/// truncated last character is left alone. Returns the number of bytes consumed.
size_t append_repaired_utf8(std::string_view bytes, bool at_end, std::string& out);

}  // namespace restkv
