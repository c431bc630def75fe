#include "model/chat_template/text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <cmath>

#include "model/chat_template/error.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/utf8.h"

namespace restkv::jinja {
namespace {

bool is_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

template <class Remove>
std::string_view strip_if(std::string_view text, bool left, bool right, Remove&& remove) {
  while (left && !text.empty()) {
    const Utf8Step step = next_utf8(text, 0);
    if (!remove(text.substr(0, step.length), step.character)) break;
    text.remove_prefix(step.length);
  }
  while (right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
    if (!remove(text.substr(at), next_utf8(text, at).character)) break;
    text.remove_suffix(text.size() - at);
  }
  return text;
}

template <class Map>
std::string map_characters(std::string_view text, Map&& map) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text, at);
    append_utf8(out, map(step.character));
    at += step.length;
  }
  return out;
}

char32_t upper(char32_t c) { return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))); }
char32_t lower(char32_t c) { return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); }
char32_t title_case(char32_t c) { return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))); }

bool has_case(char32_t c) { return upper(c) != c || lower(c) != c; }

}  // namespace

std::string_view strip(std::string_view text, bool left, bool right) {
  return strip_if(text, left, right, [](std::string_view, char32_t c) { return is_space(c); });
}

std::string_view strip(std::string_view text, std::string_view set, bool left, bool right) {
  return strip_if(text, left, right, [&](std::string_view c, char32_t) { return set.find(c) != set.npos; });
}

int64_t text_length(std::string_view text) {
  int64_t count = 0;
  for (const char byte : text) count += (static_cast<uint8_t>(byte) & 0xC0) != 0x80;
  return count;
}

std::string_view character_at(std::string_view text, size_t at) { return text.substr(at, next_utf8(text, at).length); }

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < text.size(); at += out.back().size()) out.push_back(character_at(text, at));
  return out;
}

std::string to_upper(std::string_view text) { return map_characters(text, upper); }
std::string to_lower(std::string_view text) { return map_characters(text, lower); }

std::string capitalize(std::string_view text) {
  return map_characters(
      text, [first = true](char32_t c) mutable { return std::exchange(first, false) ? title_case(c) : lower(c); });
}

std::string title(std::string_view text) {
  return map_characters(text, [inside = false](char32_t c) mutable {
    return std::exchange(inside, has_case(c)) ? lower(c) : title_case(c);
  });
}

std::vector<std::string> split(std::string_view text, const std::string* separator, int64_t limit) {
  std::vector<std::string> out;
  if (separator) {
    for (size_t end; limit != 0 && (end = text.find(*separator)) != text.npos; --limit) {
      out.emplace_back(text.substr(0, end));
      text.remove_prefix(end + separator->size());
    }
    out.emplace_back(text);
    return out;
  }
  for (text = strip(text, true, false); !text.empty(); text = strip(text, true, false)) {
    if (limit-- == 0) {
      out.emplace_back(strip(text, false, true));
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      const Utf8Step step = next_utf8(text, end);
      if (is_space(step.character)) break;
      end += step.length;
    }
    out.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return out;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t limit) {
  std::string out;
  if (from.empty()) {  // between all characters and at both ends
    for (const std::string_view c : characters(text)) {
      if (limit-- != 0) {
        out += to;
      } else {
        limit = 0;
      }
      out += c;
    }
    if (limit != 0) out += to;
    return out;
  }
  for (size_t at; limit != 0 && (at = text.find(from)) != text.npos; --limit) {
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
  }
  out += text;
  return out;
}

namespace {

// Reads `digits` hexadecimal digits behind position `at` (which moves onto the last of them).
char32_t read_hex(std::string_view literal, size_t& at, size_t digits, int line) {
  char32_t value = 0;
  for (size_t i = 0; i < digits; ++i) {
    ++at;
    const char c = at < literal.size() ? literal[at] : '\0';
    const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (digit < 0) fail_at(line, "a string has an incomplete \\x, \\u or \\U escape");
    value = value * 16 + static_cast<char32_t>(digit);
  }
  if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
    fail_at(line, "a string escape names U+{:X}, which is no character", static_cast<uint32_t>(value));
  return value;
}

}  // namespace

std::string unescape(std::string_view literal, int line) {
  static constexpr std::string_view kLetters = "abfnrtv\\'\"";
  static constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
  std::string out;
  for (size_t at = 0; at < literal.size(); ++at) {
    if (literal[at] != '\\' || at + 1 == literal.size()) {
      out.push_back(literal[at]);
      continue;
    }
    const char c = literal[++at];
    if (const size_t known = kLetters.find(c); known != kLetters.npos) {
      out.push_back(kMeanings[known]);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      append_utf8(out, read_hex(literal, at, c == 'x' ? 2 : c == 'u' ? 4 : 8, line));
    } else if (c == 'N' || (c >= '0' && c <= '7')) {
      fail_at(line, "the string escape '\\{}' is not supported; use \\xHH, \\uHHHH or \\UHHHHHHHH", c);
    } else if (c != '\n') {  // a backslash at a line's end joins the lines; other letters have no meaning
      out.push_back('\\');
      out.push_back(c);
    }
  }
  return out;
}

std::string quote_python(std::string_view text) {
  const bool single = text.find('\'') == text.npos || text.find('"') != text.npos;
  const char quote = single ? '\'' : '"';
  std::string out(1, quote);
  for (const std::string_view c : characters(text)) {
    const char byte = c.front();
    if (c.size() > 1) {
      out += c;
    } else if (byte == '\\' || byte == quote) {
      out.push_back('\\');
      out.push_back(byte);
    } else if (byte == '\n' || byte == '\r' || byte == '\t') {
      out += byte == '\n' ? "\\n" : byte == '\r' ? "\\r" : "\\t";
    } else if (static_cast<uint8_t>(byte) < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(byte));
    } else {
      out.push_back(byte);
    }
  }
  out.push_back(quote);
  return out;
}

std::string quote_json(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out.push_back(c);
        }
    }
  }
  return out + "\"";
}

std::string format_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == text.npos) text += ".0";
  return text;
}

}  // namespace restkv::jinja
