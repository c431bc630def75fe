// The alphabet in which byte-level BPE vocabularies are written: one printable character per byte.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace restkv {

/// The bytes that a vocabulary entry ("Ġthe") stands for (" the"). Nothing when it holds a character outside the
/// alphabet. `text` must be valid UTF-8. Source of the alphabet: GPT-2 (Radford et al. 2019); printable Latin-1 bytes
/// stand for themselves, the other 68 are U+0100 onwards in byte order.
std::optional<std::string> bytes_from_alphabet(std::string_view text);

/// The inverse: how a vocabulary writes these bytes.
std::string bytes_to_alphabet(std::string_view bytes);

}  // namespace restkv
