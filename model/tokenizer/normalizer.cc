#include "model/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "dist/base/error.h"

namespace restkv {

std::string normalize(Normalizer normalizer, std::string_view text) {
  // Characters below U+0300, whose UTF-8 lead bytes are below 0xCC, are never changed by NFC.
  const auto settled = [](char byte) { return static_cast<unsigned char>(byte) < 0xCC; };
  if (normalizer == Normalizer::kNone || std::all_of(text.begin(), text.end(), settled)) return std::string(text);
  utf8proc_uint8_t* result = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                               static_cast<utf8proc_ssize_t>(text.size()), &result, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (length < 0) fail_runtime("utf8proc cannot normalize the text: {}", utf8proc_errmsg(length));
  return {reinterpret_cast<const char*>(result), static_cast<size_t>(length)};
}

}  // namespace restkv
