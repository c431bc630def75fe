#include "model/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "dist/base/error.h"

namespace restkv {

std::string to_nfc(std::string_view text) {
  // Characters below U+0300, whose UTF-8 lead bytes are below 0xCC, are never changed by NFC.
  const auto settled = [](char byte) { return static_cast<unsigned char>(byte) < 0xCC; };
  if (std::all_of(text.begin(), text.end(), settled)) return std::string(text);
  utf8proc_uint8_t* result = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                               static_cast<utf8proc_ssize_t>(text.size()), &result, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (length < 0) fail_runtime("utf8proc cannot normalize the text: {}", utf8proc_errmsg(length));
  return {reinterpret_cast<const char*>(result), static_cast<size_t>(length)};
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for (size_t at = 0; (at = text.find(from, done)) != std::string_view::npos; done = at + from.size()) {
    out += text.substr(done, at - done);
    out += to;
  }
  out += text.substr(done);
  return out;
}

void Normalizer::add_nfc() { steps_.push_back({Kind::kNfc, "", ""}); }

void Normalizer::add_prepend(std::string text) { steps_.push_back({Kind::kPrepend, "", std::move(text)}); }

void Normalizer::add_replace(std::string from, std::string to) {
  steps_.push_back({Kind::kReplace, std::move(from), std::move(to)});
}

std::string Normalizer::run(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    if (step.kind == Kind::kNfc) {
      out = to_nfc(out);
    } else if (step.kind == Kind::kReplace) {
      out = replace_all(out, step.from, step.to);
    } else if (!out.empty()) {
      out.insert(0, step.to);
    }
  }
  return out;
}

}  // namespace restkv
