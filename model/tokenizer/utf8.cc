#include "model/tokenizer/utf8.h"

#include "dist/base/error.h"

namespace restkv {
namespace {

struct Lead {
  uint8_t length;
  uint8_t low, high;  // the range of the second byte
};

Lead lead_of(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Step next_utf8(std::string_view text, size_t at) {
  const auto first = static_cast<uint8_t>(text[at]);
  if (first < 0x80) return {Utf8Step::Kind::kCharacter, 1, first};
  const Lead lead = lead_of(first);
  if (lead.length == 0) return {Utf8Step::Kind::kInvalid, 1, 0};
  char32_t character = first & (0x7Fu >> lead.length);
  for (uint8_t i = 1; i < lead.length; ++i) {
    if (at + i >= text.size()) return {Utf8Step::Kind::kTruncated, i, 0};
    const auto byte = static_cast<uint8_t>(text[at + i]);
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {Utf8Step::Kind::kInvalid, i, 0};
    character = (character << 6) | (byte & 0x3Fu);
  }
  return {Utf8Step::Kind::kCharacter, lead.length, character};
}

size_t first_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text, at);
    if (step.kind != Utf8Step::Kind::kCharacter) return at;
    at += step.length;
  }
  return std::string_view::npos;
}

void require_utf8(std::string_view text, const std::string& what) {
  const size_t at = first_invalid_utf8(text);
  if (at == std::string_view::npos) return;
  fail_input("{}: invalid UTF-8 at byte {} (0x{:02X}); the text must be valid UTF-8", what, at,
             static_cast<unsigned>(static_cast<uint8_t>(text[at])));
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

size_t append_repaired_utf8(std::string_view bytes, bool at_end, std::string& out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Step step = next_utf8(bytes, at);
    if (step.kind == Utf8Step::Kind::kCharacter) {
      out.append(bytes.substr(at, step.length));
    } else if (step.kind == Utf8Step::Kind::kTruncated && !at_end) {
      return at;
    } else {
      append_utf8(out, 0xFFFD);
    }
    at += step.length;
  }
  return at;
}

}  // namespace restkv
